# An image classifier whose convolutions are initialised by kaiming_normal and learn by PSG, as in all recipes.
model = dict(
    type='ImageClassifier',
    init=dict(scheme='kaiming_normal'),
    converter=dict(
        type='PSG',
        input_bits=8,
        weight_bits=8,
        grad_bits=16,
        threshold=1e-7,
        relative=True,
        sparsify=True,
        take_sign=False,
    ),
)
