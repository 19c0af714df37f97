# Every way to train a sparse network, at two densities, on a budget for two CPU cores: 35 minutes for each seed.
title = (
    'ResNet-20 on the first 10,000 training images of CIFAR-10 (recoded as JPEG), all 10,000 test images, six epochs '
    'of 157 steps of 64 images, one schedule (warm-up, cosine) for all but rewinding, bfloat16'
)
environment = dict(PAB_BUDGET='r20_cifar10')

_density = 'default_hooks.prune.pruner.density'
_pruner = 'default_hooks.prune.pruner.type'
_rounds = 'default_hooks.prune.pruner.rounds'
_psg_off = {'model.converter': None}
_used, _fan = 'model.converter.0.density', 'model.init.fan_share'

runs = [dict(group='dense', name='dense, SGD', config='compare/ways/dense_sgd')]
for _d in (0.3, 0.1):
    _kept = {_density: _d}
    _one_round = {**_psg_off, **_kept, _rounds: 1}
    runs += [
        dict(group=f'density {_d}', against=_against, name=_name, config=f'compare/ways/{_file}', options=_options)
        for _name, _file, _options, _against in (
            ('SynFlow, weights by SGD', 'synflow_sgd', _kept, None),
            ('SynFlow, signs by Bop', 'bop', {**_psg_off, **_kept}, 'SynFlow, weights by SGD'),
            ('SynFlow, signs by Bop, PSG', 'bop', _kept, 'SynFlow, signs by Bop'),
            ('SynFlow, signs by second-order Bop', 'second_order_bop', _kept, 'SynFlow, signs by Bop'),
            ('SynFlow, signs by TopFlips', 'top_flips', _kept, 'SynFlow, signs by Bop'),
            ('SynFlow, signs and places by Moves', 'moves', _kept, 'SynFlow, signs by TopFlips'),
            ('SynFlow, weights by SGD, Sign-In', 'sign_in', _kept, 'SynFlow, weights by SGD'),
            ('SynFlow, weights by SGD and places by RigL', 'rigl', _kept, 'SynFlow, weights by SGD'),
            ('SynFlow, latent signs', 'latent_signs', _kept, 'SynFlow, signs by Bop'),
            ('edge-popup', 'edge_popup', {_used: _d, _fan: _d}, 'SynFlow, signs by Bop'),
            ('biprop', 'biprop', {_used: _d}, 'SynFlow, signs by Bop'),
            ('Rand, signs by Bop', 'bop', {**_one_round, _pruner: 'Rand'}, 'SynFlow, signs by Bop'),
            ('Mag, signs by Bop', 'bop', {**_one_round, _pruner: 'Mag'}, 'SynFlow, signs by Bop'),
            ('SNIP, signs by Bop', 'bop', {**_one_round, _pruner: 'SNIP'}, 'SynFlow, signs by Bop'),
        )
    ]
    runs.append(
        dict(
            group=f'density {_d}',
            against='SynFlow, weights by SGD',
            name='magnitude with rewinding, weights by SGD',
            config='compare/ways/rewinding',
            options=_kept,
            seeds=1,  # it is four trainings
        )
    )
