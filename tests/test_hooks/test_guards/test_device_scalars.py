import torch

from pab.hooks.guards.device_scalars import to_numbers
from tests.small_run import run_in_child, small_config, train


def test_rows_become_numbers_by_one_transfer_for_each_type(monkeypatch):
    transfers = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, 'tolist', lambda self: transfers.append(len(self)) or tolist(self))
    rows = [
        {'loss': torch.tensor(0.1), 'right': torch.tensor(2**40 + 1)},
        {'loss': torch.tensor([0.2]), 'rate': 0.25},
        {'loss': torch.tensor(0.3, dtype=torch.bfloat16)},
    ]
    want = [
        {'loss': torch.tensor(0.1).item(), 'right': 2**40 + 1},
        {'loss': torch.tensor(0.2).item(), 'rate': 0.25},
        {'loss': torch.tensor(0.3, dtype=torch.bfloat16).item()},
    ]
    assert to_numbers(rows) == want
    assert sorted(transfers) == [1, 1, 2]
    assert to_numbers([]) == []


def _count_reads(cfg):
    """The end of a run, and how often it reads a single number of a loss."""
    reads = []

    class Loss(torch.Tensor):
        def item(self):
            reads.append(1)
            return super().item()

    def prepare(runner):
        step = runner.model.train_step
        runner.model.train_step = lambda *args, **kwargs: {
            key: value.as_subclass(Loss) for key, value in step(*args, **kwargs).items()
        }

    return train(cfg, prepare), len(reads)


def _logged(folder):
    lines = [line for path in folder.glob('*/*.log') for line in path.read_text().splitlines()]
    return [line.split('loss: ')[1].split()[0] for line in lines if 'loss: ' in line]


def test_history_and_log_are_those_of_mmengine_and_no_step_reads_its_loss(finished, tmp_path):
    cfg = small_config(tmp_path, default_hooks__runtime_info__type='mmengine.RuntimeInfoHook')
    status, (want, reads) = run_in_child(_count_reads, cfg)
    assert (status, reads) == (0, 30)
    assert finished.end['scalars'] == want['scalars']
    assert len(want['scalars']['train/loss'][0]) == 30
    assert _logged(finished.folder) == _logged(tmp_path)
    assert len(_logged(tmp_path)) == 3 * 2  # in each epoch after 4 and 8 of 10 steps


def test_losses_wait_and_the_norm_of_clipped_gradients_is_logged(tmp_path):
    cfg = small_config(tmp_path, optim_wrapper__clip_grad=dict(max_norm=1.0))
    status, (end, reads) = run_in_child(_count_reads, cfg)
    assert (status, reads) == (0, 0)
    norms = end['scalars']['train/grad_norm'][0]
    assert len(norms) == 30
    assert min(norms) > 0
