# 1,797 real handwritten digits, 8 x 8 grey, that come with scikit-learn. Not augmented: a mirrored digit is another
# sign, and with random crops the running statistics of batch norm do not settle in so short a training.
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='EpochSampler', shuffle=True),
    collate_fn=dict(type='collate_images'),
    dataset=dict(type='Digits', split='train'),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    sampler=dict(type='EpochSampler', shuffle=False),
    collate_fn=dict(type='collate_images'),
    dataset=dict(type='Digits', split='test'),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
data_preprocessor = dict(type='ImagePreprocessor', mean=(0.3,), std=(0.38,))
