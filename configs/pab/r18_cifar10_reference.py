# What the research code does where it differs from the paper: Bop's average starts with the first gradient.
_base_ = ['./r18_cifar10.py']

optim_wrapper = dict(optimizers=dict(signs=dict(first_step='gradient')))
