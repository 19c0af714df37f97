# What else could be free: one thing changed at a time in a training by TopFlips.
title = (
    'TopFlips with one change at a time: ResNet-20, density 0.3, the first 10,000 training images of CIFAR-10 (recoded '
    'as JPEG), all 10,000 test images, six epochs of 157 steps of 64 images, bfloat16'
)

environment = dict(PAB_BUDGET='r20_cifar10')
_sgd, _signs, _pruner = 'optim_wrapper.optimizers.sgd', 'optim_wrapper.optimizers.signs', 'default_hooks.prune.pruner'
_psg = {'_delete_': True, 'type': 'PSG'}

runs = [
    dict(
        name=_name,
        config='compare/ways/top_flips',
        options=_options,
        against=None if _name == 'as it is' else 'as it is',
    )
    for _name, _options in (
        ('as it is', {}),
        ('init: signed constant', {'model.init.scheme': 'kaiming_constant_signed'}),
        ('pruner: SNIP', {f'{_pruner}.type': 'SNIP', f'{_pruner}.rounds': 1}),
        ('pruner: Mag', {f'{_pruner}.type': 'Mag', f'{_pruner}.rounds': 1}),
        ('pruner: Rand', {f'{_pruner}.type': 'Rand', f'{_pruner}.rounds': 1}),
        ('density: the same in each layer', {f'{_pruner}.scope': 'local'}),
        ('density: ERK', {f'{_pruner}.scope': 'local', f'{_pruner}.allocation': 'erk'}),
        ('PSG, gradients of 16 bits', {'model.converter': {**_psg, 'grad_bits': 16}}),
        ('PSG, gradients of 8 bits', {'model.converter': {**_psg, 'grad_bits': 8}}),
        ('PSG, gradients of 4 bits', {'model.converter': {**_psg, 'grad_bits': 4}}),
        ('label smoothing 0.1', {'model.label_smoothing': 0.1}),
        ('learning rate of the rest 0.03', {f'{_sgd}.lr': 0.03}),
        ('learning rate of the rest 0.3', {f'{_sgd}.lr': 0.3}),
        ('mirrored, not cropped', {'data_preprocessor.crop_padding': 0}),
        ('not augmented', {'data_preprocessor.crop_padding': 0, 'data_preprocessor.flip': False}),
        ('adaptivity rate 3e-3', {f'{_signs}.adaptivity_rate': 3e-3}),
        ('share of flips 6e-3', {f'{_signs}.flip_share': 6e-3}),
    )
]
