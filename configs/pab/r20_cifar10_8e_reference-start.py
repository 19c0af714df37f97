# As r20_cifar10_8e.py, with Bop's average started by the first gradient, as the research code does.
_base_ = ['./r20_cifar10_8e.py']

optim_wrapper = dict(optimizers=dict(signs=dict(first_step='gradient')))
