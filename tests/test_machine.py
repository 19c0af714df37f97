"""A checkpoint knows the arithmetic that it was computed with, and a resume elsewhere says so."""

import torch

from pab.machine import arithmetic, processor
from tests.small_run import run_in_child, small_config, train


def test_what_sums_depend_on():
    here = arithmetic(torch.device('cpu'))
    assert list(here) == ['processor', 'instruction set', 'threads', 'torch']
    assert here['processor'] == processor() != ''
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert arithmetic(torch.device('cpu')) == {**here, 'threads': str(threads + 1)}
    finally:
        torch.set_num_threads(threads)


def test_a_resume_on_another_machine_is_told_once(stopped, tmp_path):
    content = torch.load(stopped)
    own = content['meta']['arithmetic']
    assert own['threads'] == '1'
    told = {}
    for name, before in {'same': own, 'other': {**own, 'processor': 'Z80', 'threads': '7'}, 'unknown': None}.items():
        content['meta']['arithmetic'] = before
        torch.save(content, tmp_path / f'{name}.pth')
        cfg = small_config(tmp_path / name, resume=True, load_from=str(tmp_path / f'{name}.pth'))
        status, end = run_in_child(train, cfg)
        assert status == 0, end
        lines = next((tmp_path / name).glob('*/*.log')).read_text().splitlines()
        told[name] = [line.partition(' - WARNING - ')[2] for line in lines if 'not bit for bit' in line]
    why = f'processor Z80, now {own["processor"]}; threads 7, now 1'
    other = f'The run goes on, but not bit for bit, because its first part was computed otherwise: {why}'
    assert told == {'same': [], 'other': [other], 'unknown': []}
