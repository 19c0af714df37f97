# SynFlow, then signs by latent weights, which SGD moves on the schedule of the rest.
_base_ = ['./synflow_sgd.py']

model = dict(converter=dict(_delete_=True, type='LatentSigns', mode='flipping'))
optim_wrapper = dict(optimizers=dict(latent=dict(type='SGD', owns=['Conv2d.latent'], lr=1.0, momentum=0.9)))
param_scheduler = dict(latent={{_base_.param_scheduler.sgd}})
