# SynFlow, then weights by SGD that change places every 100 steps (RigL): the upper bound of signs that do.
_base_ = ['./synflow_sgd.py']

custom_hooks = [dict(type='RigLHook')]
