# Second-order Bop with the rates and the threshold of its authors.
_base_ = ['./r18_cifar10.py']

optim_wrapper = dict(optimizers=dict(signs=dict(type='SecondOrderBop', adaptivity_rate=1e-7, second_rate=1e-3)))
