# Photographs in $PAB_DATA/imagenet/{train,val}/<class>/. 8 GPUs x 32 is the recipe's batch of 256.
train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='EpochSampler', shuffle=True),
    collate_fn=dict(type='collate_images'),
    dataset=dict(type='ImageNet', split='train'),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='EpochSampler', shuffle=False),
    collate_fn=dict(type='collate_images'),
    dataset=dict(type='ImageNet', split='val'),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
data_preprocessor = dict(type='ImagePreprocessor', mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
