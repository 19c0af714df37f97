# SynFlow, then the kept weights by SGD, each of them a product of two parameters (Sign-In).
_base_ = ['./synflow_sgd.py']

model = dict(converter=dict(_delete_=True, type='SignIn'))
custom_hooks = [dict(type='SignInHook')]
