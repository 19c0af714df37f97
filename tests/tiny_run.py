"""The config of a whole run in seconds."""

import itertools
from pathlib import Path

from mmengine.config import Config

RUNS = itertools.count()
QUICKSTART = Path(__file__).parents[1] / 'configs' / 'pab' / 'quickstart.py'


def tiny_run(work_dir: Path, report: bool = False, **changes) -> Config:
    """128 digits, a ResNet-8 of width 2, two epochs, with or without the report; ``changes`` are merged over it.

    ``tiny_run(folder, train_cfg=dict(max_epochs=1))`` is shorter still.
    """
    cfg = Config.fromfile(str(QUICKSTART))
    cfg.merge_from_dict(
        dict(
            work_dir=str(work_dir),
            # mmengine names a run by the second it starts in, and runs of one name share their log
            experiment_name=f'tiny_{next(RUNS)}',
            model=dict(network=dict(width=2)),
            train_dataloader=dict(batch_size=32, dataset=dict(num_samples=128)),
            val_dataloader=dict(dataset=dict(num_samples=32)),
            test_dataloader=dict(dataset=dict(num_samples=32)),
            train_cfg=dict(max_epochs=2),
            param_scheduler=dict(sgd=[dict(type='MultiStepLR', milestones=[1], gamma=0.1)]),
            default_hooks=dict(prune=dict(pruner=dict(rounds=3)), ar_decay=dict(interval=1), logger=dict(interval=1)),
        )
    )
    cfg.merge_from_dict(changes)
    if not report:
        cfg.default_hooks.report = None  # it draws for a second
    return cfg
