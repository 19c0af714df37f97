# What every run shares: randomness, logs, checkpoints and what keeps a run from being lost, the report.
default_scope = 'pab'
runner_type = 'PabRunner'
randomness = dict(seed=0)
env_cfg = dict(cudnn_benchmark=True)

default_hooks = dict(
    random_state=dict(type='RandomStateHook'),
    runtime_info=dict(type='DeviceScalarsHook'),  # reads the losses once a logging interval
    logger=dict(type='LoggerHook', interval=100),
    checkpoint=dict(
        type='CheckpointHook',
        interval=1,
        max_keep_ckpts=2,
        save_best='accuracy/top1',
        rule='greater',
        backend_args=dict(backend='atomic'),  # a file is there whole or not at all, and old ones go after new ones came
    ),
    interrupt=dict(type='InterruptHook'),
    divergence=dict(type='DivergenceHook'),
    resume_check=dict(type='ResumeCheckHook'),
    costs=dict(type='CostHook'),
    report=dict(type='ReportHook'),
    statistics=dict(type='SharedStatisticsHook'),
)
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
load_from = None
new_head = False  # whether the head in load_from is for another number of classes, and is drawn anew
resume = False
overwrite = False  # whether to remove the checkpoints of another run in the work dir
