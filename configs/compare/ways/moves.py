# As TopFlips, but weights that the gradient opposes change places; a sign changes when a weight leaves and grows again.
_base_ = ['./top_flips.py']

optim_wrapper = dict(optimizers=dict(signs=dict(type='Moves', flip_share=0.0, move_share=3e-3, adaptivity_rate=3e-3)))
param_scheduler = dict(
    signs=[dict(type='CosineAnnealingParamScheduler', param_name='move_share', convert_to_iter_based=True)],
)
