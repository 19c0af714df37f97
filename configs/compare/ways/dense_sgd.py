_base_ = ['./synflow_sgd.py']

default_hooks = dict(prune=None)
