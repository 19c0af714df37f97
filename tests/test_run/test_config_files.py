"""Configs that come with pab, named, copied and inherited from another folder; and the command pab."""

import ast
import contextlib
import re
import runpy
import sys

import pytest
from mmengine.config import Config

from pab import __version__
from pab.__main__ import COMMANDS, main
from pab.command import words_of
from pab.compare.plan import read_comparison
from pab.run import config_files
from pab.run.config import check_config, merge_options, read_config
from pab.run.config_files import CONFIGS, config_names, find_config, first_comment, read_for_elsewhere
from tests.launching import ROOT


def test_names_and_first_lines():
    known = config_names()
    assert len(known) > 40
    assert known['pab/quickstart'] == CONFIGS / 'pab' / 'quickstart.py'
    assert {name.partition('/')[0] for name in known} == {'pab', 'compare'}
    assert not any('budgets' in name for name in known)
    lines = {name: first_comment(path) for name, path in known.items()}
    assert [name for name, line in lines.items() if not line.endswith(('.', ':', ',', 'about', 'so'))] == []


@pytest.mark.parametrize(
    ('text', 'line'),
    [
        ('# a\n# b\nx = 1', 'a'),
        ('"""One.\n\nMore.\n"""', 'One.'),
        ("\n\n'Two.'\n", 'Two.'),
        ('x = 1  # no', ''),
        ('', ''),
    ],
)
def test_the_first_line_of_a_file(tmp_path, text, line):
    (tmp_path / 'c.py').write_text(text)
    assert first_comment(tmp_path / 'c.py') == line


def test_a_file_of_ones_own_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config('pab/quickstart') == find_config('pab/quickstart.py') == CONFIGS / 'pab' / 'quickstart.py'
    (tmp_path / 'pab').mkdir()
    (tmp_path / 'pab' / 'quickstart.py').touch()
    assert find_config('pab/quickstart.py').resolve() == tmp_path / 'pab' / 'quickstart.py'
    with pytest.raises(FileNotFoundError, match=r'no config mine/x.py; pab config --list names'):
        find_config('x.py', 'mine')


@pytest.fixture
def pab(monkeypatch, capfd):
    """A function: arguments of ``pab`` -> what it printed, and how it ended."""

    def run(*words):
        monkeypatch.setattr(sys, 'argv', ['/usr/bin/pab', *words])
        monkeypatch.setattr(sys, 'path', [*sys.path])
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = ended.code
        return ''.join(capfd.readouterr()), status

    return run


def test_every_base_of_a_copy_is_there():
    for name, path in config_names().items():
        texts = path.read_text(), read_for_elsewhere(name)
        before, after = (re.search(r'(?ms)^_base_ = (\[.*?\])', text) for text in texts)
        if before:
            bases, moved = (ast.literal_eval(found[1]) for found in (before, after))
            named = [base.removeprefix('{{$PAB_CONFIGS:}}/') for base in moved]
            named = [re.sub(r'\{\{\$PAB_BUDGET:(\w+)\}\}', r'\1', base) for base in named]
            assert len(named) == len(bases)
            assert all((CONFIGS / base).is_file() for base in named), name


@pytest.mark.parametrize(
    'name', ['pab/quickstart', 'pab/r18_cifar10_snip', 'compare/cifar10_r18', 'compare/ways/top_flips']
)
def test_a_copy_says_what_the_config_says(name, pab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed, status = pab('config', '--copy', name)
    assert (printed, status) == (f'{name.rpartition("/")[2]}.py\n', 0)
    assert read_config(printed.strip()).to_dict() == read_config(config_names()[name]).to_dict()
    before = (tmp_path / printed.strip()).read_bytes()
    assert pab('config', '--copy', name)[1].endswith('.py exists; move it, or copy in another folder')
    assert (tmp_path / printed.strip()).read_bytes() == before


def test_a_comparison_names_configs_from_anywhere(tmp_path):
    text = "title = 'x'\nruns = [dict(name='a', config='pab/quickstart'), dict(name='b', config='mine.py')]"
    (tmp_path / 'c.py').write_text(text)
    (tmp_path / 'mine.py').write_text(
        "_base_ = '{{$PAB_CONFIGS:}}/pab/quickstart.py'\ntrain_cfg = dict(max_epochs=3)\n"
    )
    shipped, own = read_comparison(tmp_path / 'c.py', 1, tmp_path).runs
    assert (read(shipped.config).max_epochs, read(own.config).max_epochs) == (20, 3)
    (tmp_path / 'mine.py').unlink()
    with pytest.raises(ValueError, match=r"run 'b': there is no config .*mine\.py; .*relative to the comparison file"):
        read_comparison(tmp_path / 'c.py', 1, tmp_path)


def test_the_syntax_of_mmengine_for_other_packages_is_answered(tmp_path):
    (tmp_path / 'c.py').write_text("_base_ = ['pab::pab/quickstart.py']")
    with pytest.raises(
        ValueError, match=r"_base_: .* write '\{\{\$PAB_CONFIGS:\}\}/pab/quickstart.py' for a config of pab"
    ):
        read_config(tmp_path / 'c.py')
    (tmp_path / 'c.py').write_text('assert 1 == 2, "mine"')
    with pytest.raises(AssertionError, match='mine'):
        read_config(tmp_path / 'c.py')


def read(text):
    return Config.fromstring(text, '.py').train_cfg


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (
            'with open(__import__("os").devnull) as f: pass',
            r"f is no plain data.* del of the name \(cannot pickle '_io",
        ),
        ('_made = dict(by=(i for i in "ab"))', r"_made.by is no plain data.* \(cannot pickle 'generator' object"),
        ('_one = object()', '_one is no plain data.*, got <object object at'),
        ('import functools; _make = functools.partial(int, 3)', '_make is no plain data.*, got functools.partial'),
        (
            'for i in range(3): pass',
            "config: nothing reads the key 'i'; .*a name of your own begins with an underscore",
        ),
        ('def helper(): return 3\nclass Own: pass\ntrain_cfg = dict(max_epochs=helper())', None),
        ("_data = dict(_delete_=True, type='Digits', split='test')\nval_dataloader = dict(dataset=_data)", None),
    ],
)
def test_names_that_are_left_over(tmp_path, text, message):
    """In a config, and in its base; functions and classes are helpers and stay out."""
    (tmp_path / 'own.py').write_text(f"_base_ = '{{{{$PAB_CONFIGS:}}}}/pab/quickstart.py'\n{text}\n")
    (tmp_path / 'child.py').write_text("_base_ = './own.py'")
    for name in ('own', 'child'):
        with pytest.raises(ValueError, match=message) if message else contextlib.nullcontext():
            check_config(read_config(tmp_path / f'{name}.py'))


def test_the_commands_and_their_lines(pab):
    scripts = {path.stem.replace('print_config', 'config') for path in (ROOT / 'tools').glob('*.py')} - {'torchrun'}
    assert {*COMMANDS} == scripts
    printed, status = pab('--help')
    assert status == 0
    assert len(re.findall(r'^  \w+ +[A-Z].*[.,:;]', printed, re.MULTILINE)) == len(COMMANDS)
    assert pab() == (printed, 2)
    assert pab('--version') == (f'pab {__version__}\n', None)
    assert pab('trian') == ('', "error: pab has no command 'trian'; did you mean train?")
    printed, status = pab('compact', 'info', '--help')
    assert status == 0
    assert 'usage: pab compact info ' in printed


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ([], 'give one of CONFIG, --list and --copy NAME'),
        (['pab/quickstart', '--list'], 'give one of CONFIG'),
        (['--list', '--cfg-options', 'a=1'], '--cfg-options needs CONFIG'),
    ],
)
def test_wrong_calls_of_config(pab, words, message):
    printed, status = pab('config', *words)
    assert status == 2
    assert message in printed


def test_what_is_no_config_of_pab(pab):
    assert (
        pab('config', '--copy', '../x')[1]
        == 'error: pab has no config ../x; pab config --list names the configs of pab'
    )
    assert 'did you mean pab/quickstart? pab config' in pab('config', '--copy', 'pab/quikstart')[1]


def test_words_of_a_command():
    assert words_of(['tools/train.py', 'c.py']) == ['python', 'tools/train.py', 'c.py']
    assert words_of(['pab train', 'c d.py']) == ['pab', 'train', 'c d.py']
    assert words_of(['python -m pab train']) == ['python', '-m', 'pab', 'train']


def test_a_wheel_has_every_config(monkeypatch):
    """By the folders that setup.py names; .ci/check_wheel.py uses one."""
    setuptools = pytest.importorskip('setuptools')
    told = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, 'setup', lambda **settings: told.update(settings))
    runpy.run_path(str(ROOT / 'setup.py'))
    folders = {path.parent.relative_to(ROOT / 'configs') for path in config_files.CONFIGS.rglob('*.py')}
    assert {'.'.join(('pab', 'configs', *folder.parts)) for folder in folders} <= {*told['packages']}
    assert told['package_dir'] == {'pab.configs': 'configs', 'pab.zoo': 'zoo'}
    assert not any('__pycache__' in name for name in told['packages'])


def test_modules_that_an_option_names_are_imported(tmp_path, monkeypatch):
    (tmp_path / 'named_by_option.py').write_text('')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'named_by_option', raising=False)
    cfg = read_config(CONFIGS / 'pab' / 'quickstart.py')
    merge_options(cfg, {'custom_imports.imports': ['named_by_option']})
    assert 'named_by_option' in sys.modules
    with pytest.raises(ImportError, match='no_such_module'):
        merge_options(cfg, {'custom_imports': {'imports': ['no_such_module']}})
