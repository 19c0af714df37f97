# The whole set is in memory and augmented in batches, so no worker processes are needed.
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    sampler=dict(type='EpochSampler', shuffle=True),
    collate_fn=dict(type='collate_images'),
    dataset=dict(type='CIFAR10', split='train'),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    sampler=dict(type='EpochSampler', shuffle=False),
    collate_fn=dict(type='collate_images'),
    dataset=dict(type='CIFAR10', split='test'),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
data_preprocessor = dict(
    type='ImagePreprocessor',
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    crop_padding=4,
    flip=True,
)
