# The sign of each gradient is the step: Lion without its averages. It needs pip install lion-pytorch.
_base_ = ['./r18_cifar10_sgd.py']

optim_wrapper = dict(optimizers=dict(sgd=dict(_delete_=True, type='Lion', owns='rest', lr=1e-3, betas=(0.0, 0.0))))
