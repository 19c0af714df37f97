# Photographs in $PAB_DATA/<class>/, or in $PAB_DATA/{train,val}/<class>/. model.input_shape has their size and colours.
train_dataloader = dict(
    batch_size=32,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='EpochSampler', shuffle=True),
    collate_fn=dict(type='collate_images'),
    dataset=dict(type='ImageFolder', split='train', size='auto', grey='auto', val_share=0.2),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='EpochSampler', shuffle=False),
    collate_fn=dict(type='collate_images'),
    dataset=dict(type='ImageFolder', split='val', size='auto', grey='auto', val_share=0.2),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
data_preprocessor = dict(type='ImagePreprocessor', mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
