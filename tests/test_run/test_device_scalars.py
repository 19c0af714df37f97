import torch

from pab.run.device_scalars import to_numbers
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


def test_the_history_and_the_log_are_those_of_mmengine(tmp_path):
    ours, theirs = tmp_path / 'ours', tmp_path / 'theirs'
    _, end = run_in_child(train, small_config(ours))
    options = dict(default_hooks__runtime_info__type='mmengine.RuntimeInfoHook')
    status, want = run_in_child(train, small_config(theirs, **options))
    assert status == 0
    assert end['scalars'] == want['scalars']
    assert len(end['scalars']['train/loss'][0]) == 30
    logged = [
        [
            line.split('loss: ')[1].split()[0]
            for f in folder.glob('*/*.log')
            for line in f.read_text().splitlines()
            if 'loss: ' in line
        ]
        for folder in (ours, theirs)
    ]
    assert logged[0] == logged[1]
    assert len(logged[0]) == 3 * 2  # in each epoch after 4 and 8 of 10 steps


def _count_reads(cfg):
    """How often the run reads a single number of a loss."""
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

    train(cfg, prepare)
    return len(reads)


def test_no_step_reads_its_loss(tmp_path):
    assert run_in_child(_count_reads, small_config(tmp_path / 'ours')) == (0, 0)
    cfg = small_config(tmp_path / 'theirs', default_hooks__runtime_info__type='mmengine.RuntimeInfoHook')
    assert run_in_child(_count_reads, cfg) == (0, 30)


def test_the_norm_of_clipped_gradients_is_logged(tiny_config):
    from pab.run import PabRunner

    runner = PabRunner.from_cfg(
        tiny_config(train_cfg=dict(max_epochs=1), optim_wrapper=dict(clip_grad=dict(max_norm=1.0)))
    )
    runner.train()
    norms = runner.message_hub.get_scalar('train/grad_norm').data[0]
    assert len(norms) == 4
    assert (norms > 0).all()
