# The whole network, its weights trained by SGD.
_base_ = ['./synflow_sgd.py']

default_hooks = dict(prune=None)
