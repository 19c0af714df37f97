# As edge_popup.py, with the signs of weights in place of the weights.
_base_ = ['./edge_popup.py']

model = dict(
    init=dict(_delete_=True, scheme='kaiming_normal'),
    converter=[dict(type='Biprop', density=0.3, through_abs=True), dict(type='AffineFreeBatchNorm')],
)
