# What every run shares: randomness, logs, checkpoints, the report.
default_scope = 'pab'
runner_type = 'PabRunner'
randomness = dict(seed=0)
env_cfg = dict(cudnn_benchmark=True)

default_hooks = dict(
    random_state=dict(type='RandomStateHook'),
    logger=dict(type='LoggerHook', interval=100),
    checkpoint=dict(
        type='CheckpointHook',
        interval=1,
        max_keep_ckpts=2,
        save_best='accuracy/top1',
        rule='greater',
        backend_args=dict(backend='atomic'),  # a file is there whole or not at all, and old ones go after new ones came
    ),
    report=dict(type='ReportHook'),
)
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
load_from = None
resume = False
