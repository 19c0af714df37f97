_base_ = ['./edge_popup.py']

model = dict(
    init=dict(_delete_=True, scheme='kaiming_normal'),
    converter=[dict(type='Biprop', density=0.3, through_abs=True), dict(type='AffineFreeBatchNorm')],
)
