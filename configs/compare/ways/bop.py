# SynFlow, then signs by Bop with PSG gradients; model.converter=None takes the exact ones.
_base_ = ['./synflow_sgd.py']

model = dict(converter=dict(_delete_=True, type='PSG'))
optim_wrapper = dict(
    optimizers=dict(signs=dict(type='Bop', owns=['Conv2d.weight'], adaptivity_rate=1e-3, threshold=1e-6))
)
param_scheduler = dict(
    signs=[dict(type='GeometricParamScheduler', param_name='adaptivity_rate', end_factor=0.003)],
)
default_hooks = dict(flips=dict(_delete_=True, type='FlipCountHook'))
