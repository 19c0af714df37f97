"""The output of a comparison: rows, Markdown, CSV, pictures, the page; and messages while trainings end."""

import csv
import io
import json
import re
import runpy
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pab.cli.compare import main
from pab.compare.page import draw_amounts, draw_comparison, write_page
from pab.compare.plan import COMMAND, Comparison, Training
from pab.compare.progress import TABLE, TABLE_CSV, Progress
from pab.compare.results import RESULT
from pab.compare.summary import summarize
from pab.compare.tables import table_rows, to_csv, to_markdown
from pab.compare.training import LOG, TrainingFailed, TrainingStopped
from tests.test_compare.fakes import make_result, make_run, three_runs


@pytest.fixture
def compared(tmp_path):
    return three_runs(tmp_path)


def test_rows_by_hand(compared):
    # a: 62, 66, 64 has mean 64 and deviation 2. The common seeds 0 and 1 differ by 1 and 4: mean 2.5, deviation
    # 3 / sqrt 2, so half of the interval is 12.706 * 3 / sqrt 2 / sqrt 2 = 19.059. b: 61, 62.
    shared = ['1.5M', '2G', '0:01:01', '1kB']
    assert table_rows(*compared) == [
        ['g', *[''] * 9],
        ['a', '3', '64.00 ± 2.00', '+2.50 [-16.56, +21.56] (2 seeds) to b|c', '0.3', '12.3k', *shared],
        ['b|c', '2', '61.50 ± 0.71', '', '0.3', '-', *shared],
        ['other', '0', '-', '', *['-'] * 6],
    ]


def test_one_common_seed_or_none(compared):
    comparison, results = compared
    a, b, _ = comparison.runs
    del results[Training(b, 1)]
    assert table_rows(comparison, results)[1][3] == '+1.00 (one seed) to b|c'
    assert table_rows(comparison, results)[2][2] == '61.00'
    del results[Training(a, 0)]
    assert table_rows(comparison, results)[1][3] == 'no common seed with b|c'
    assert table_rows(comparison, {})[1][3] == '-'


def test_a_mean_over_fewer_seeds_says_so(compared):
    comparison, results = compared
    a, b, _ = comparison.runs
    for seed, numbers in enumerate([dict(size=None, seconds=None), dict(size=3000, seconds=None), dict(size=1000)]):
        results[Training(a, seed)] = make_result(60.0, **numbers)
    for seed, flips in enumerate([7, None]):
        results[Training(b, seed)] = make_result(60.0, flips=flips)
    first, second = table_rows(comparison, results)[1:3]
    assert first[-2:] == ['0:01:01 (one seed)', '2kB (2 seeds)']
    assert second[5] == '7 (one seed)'


def test_a_network_without_masks_has_density_1(compared):
    comparison, results = compared
    _, b, _ = comparison.runs
    for seed in range(2):
        results[Training(b, seed)] = make_result(61.0, density=None)
    assert [row[4] for row in table_rows(comparison, results)] == ['', '0.3', '1', '-']


def test_markdown(compared):
    lines = to_markdown(*compared).splitlines()
    assert lines[0] == 'What is compared.'
    assert lines[4].startswith('| **g** |  | ')
    assert lines[6].startswith(r'| b\|c | 2 | 61.50 ± 0.71 |')
    assert lines[-1] == '1 of 6 trainings have no result yet.'
    assert {len(re.findall(r'(?<!\\)\|', line)) for line in lines[2:8]} == {11}


@pytest.mark.parametrize(
    ('name', 'shown'),
    [
        ('a|b', r'a\|b'),
        ('*a* `b` <b> $c$ &amp; ~~d~~', r'\*a\* \`b\` \<b\> \$c\$ \&amp; \~\~d\~\~'),
        ('_a_ b_c', r'\_a\_ b_c'),
        ('[a](http://b)', r'[a\](http://b)'),
        ('a\\|b', r'a\\\|b'),
    ],
)
def test_markdown_shows_names_and_titles_as_they_are(tmp_path, name, shown):
    comparison = Comparison(name, (make_run(tmp_path, name, group=name),))
    lines = to_markdown(comparison, {}).splitlines()
    assert lines[0] == shown
    assert lines[4].startswith(f'| **{shown}** |')
    assert lines[5].startswith(f'| {shown} | 0 |')


@pytest.mark.parametrize(('title', 'shown'), [('# a', r'\# a'), ('- a', r'\- a'), ('1. a', r'1\. a'), ('a\nb', 'a b')])
def test_a_title_is_a_paragraph(title, shown):
    assert to_markdown(Comparison(title, ()), {}).splitlines()[0] == shown


@pytest.mark.parametrize('name', ['=1+1', '+a', '-a', '@a'])
def test_no_name_is_a_formula(tmp_path, name):
    run = make_run(tmp_path, name, group=name)
    (row,) = csv.DictReader(io.StringIO(to_csv(Comparison('x', (run,)), {Training(run, 0): make_result(1.0)})))
    assert (row['group'], row['name'], row['accuracy']) == (f"'{name}", f"'{name}", '1.0')


def test_csv_has_every_number_in_full(compared):
    comparison, results = compared
    first = comparison.trainings()[0]
    results[first] = make_result(200 / 3, size=None)
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison, results))))
    assert ' '.join(row['name'] + row['seed'] for row in rows) == 'a0 b|c0 a1 b|c1 a2'
    assert float(rows[0]['accuracy']) == 200 / 3
    assert (rows[0]['compact_bytes'], rows[1]['compact_bytes'], rows[1]['flips']) == ('', '1000', '')


def test_curves_are_means_over_epochs_that_all_have(compared):
    comparison, results = compared
    first = comparison.trainings()[0]
    results[first] = replace(results[first], curve=([2, 3], [60.0, 70.0]))
    assert summarize(comparison, results)[0].curve() == ([2], [pytest.approx((60 + 66 + 64) / 3)])
    assert summarize(comparison, results)[2].curve() == ([], [])


def test_pictures_and_page(compared, tmp_path):
    comparison, results = compared
    names = ('bit_operations', 'bytes', 'epochs_1')
    assert {*draw_comparison(*compared)} == {f'accuracy_over_{name}' for name in names}
    for training, result in results.items():
        results[training] = replace(result, size=None)
    page = write_page(tmp_path, 'digits', comparison, results).read_text()
    assert (tmp_path / 'accuracy_over_bit_operations.png').is_file()
    assert not (tmp_path / 'accuracy_over_bytes.png').exists()
    assert page.count('<img') == 2
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    parts = ['<td>64.00 ± 2.00</td>', '<summary>Settings of g: b|c</summary>', '<h1>digits</h1>', 'What is compared.']
    assert [part for part in parts if part not in page] == []


def test_a_page_without_any_result(compared, tmp_path):
    assert '<img' not in write_page(tmp_path, 'none', compared[0], {}).read_text()


def test_a_run_looks_the_same_in_every_picture(compared):
    comparison, results = compared
    a, b, other = comparison.runs
    results = {Training(b, 0): make_result(50.0), Training(other, 0): make_result(51.0)}
    figures = draw_comparison(replace(comparison, runs=(b, a, other)), results)
    points = [container.lines[0] for container in figures['accuracy_over_bytes'].axes[0].containers]
    curves = [figures[f'accuracy_over_epochs_{index}'].axes[0].lines[0] for index in (1, 2)]
    looks = [[(line.get_color(), line.get_marker()) for line in lines] for lines in (points, curves)]
    assert looks[0] == looks[1]
    assert curves[0].get_color() != curves[1].get_color()


def test_a_run_in_several_groups_is_one_line(compared, tmp_path):
    comparison, results = compared
    again = make_run(tmp_path, 'a', group='h', seeds=1)
    comparison = replace(comparison, runs=(*comparison.runs, again))
    results[Training(again, 0)] = make_result(50.0, bit_operations=1e12)
    axes = draw_comparison(comparison, results)['accuracy_over_bit_operations'].axes[0]
    assert [container.get_label() for container in axes.containers] == ['a', 'b|c']
    line = axes.containers[0].lines[0]
    assert list(zip(*line.get_data(), strict=True)) == [(2e9, 64.0), (1e12, 50.0)]
    assert axes.get_xscale() == 'log'  # 500 times more


def test_several_densities_have_a_picture_and_name_their_points(compared, tmp_path):
    comparison, results = compared
    assert 'accuracy_over_density' not in draw_comparison(comparison, results)
    again = make_run(tmp_path, 'a', group='h', seeds=2)
    comparison = replace(comparison, runs=(*comparison.runs, again))
    results |= {Training(again, seed): make_result(50.0 + seed, density=0.1, size=500) for seed in range(2)}
    figures = draw_comparison(comparison, results)
    axes = figures['accuracy_over_density'].axes[0]
    a, b = axes.containers
    assert [box.lines[0].get_xydata().tolist() for box in (a, b)] == [[[0.1, 50.5], [0.3, 64.0]], [[0.3, 61.5]]]
    ((low, high), *_) = [segment[:, 1] for segment in a.lines[2][0].get_segments()]
    assert (high - low) / 2 == pytest.approx(0.5**0.5)  # one standard deviation of 50 and 51
    assert [text.get_text() for text in axes.texts] == []
    over_bytes = figures['accuracy_over_bytes'].axes[0]
    named = {(text.get_text(), text.xy) for text in over_bytes.texts}
    assert named == {
        ('0.3', (1000.0, 64.0)),
        ('0.1', (500.0, 50.5)),
    }
    page = write_page(tmp_path, 'digits', comparison, results).read_text()
    assert (tmp_path / 'accuracy_over_density.png').is_file()
    assert page.count('<img') == 5


@pytest.fixture
def progress(tmp_path):
    comparison, told = three_runs(tmp_path)[0], []

    def store(training, accuracy=60.0, **numbers):
        result = replace(make_result(accuracy, **numbers), settings={'x': 1})
        training.folder.mkdir(parents=True, exist_ok=True)
        (training.folder / RESULT).write_text(json.dumps(asdict(result)))

    store(comparison.trainings()[0], seconds=100.0)
    made = Progress(comparison, tmp_path, 2, told.append)
    made.told, made.store = told, store
    return made


def test_progress(progress, tmp_path):
    a0, b0, other, a1, b1, _ = progress.comparison.trainings()
    assert list(progress.results) == [a0]
    assert progress.seconds_left() == 5 * 100 / 2
    progress.store(b0, 61.0, seconds=10.0)
    progress.ended(b0, None)
    # left are a1 and a2, 100 seconds each, b1 with 10, and other, for which the mean stands
    assert progress.seconds_left() == (100 + 100 + 10 + 55) / 2
    assert progress.told == ['g: b|c, seed 0: 61.00 % in 0:00:10; 2 of 6 done, about 0:02:12 left']
    progress.ended(other, TrainingFailed('it ended with status 1: boom'))
    assert progress.failures == {other: f'it ended with status 1: boom (log: {other.folder / LOG})'}
    progress.ended(a1, TrainingStopped())
    assert set(progress.waiting()) == {a1, b1, Training(a0.run, 2)}
    assert '4 of 6 trainings have no result yet' in (tmp_path / TABLE).read_text()
    assert len((tmp_path / TABLE_CSV).read_text().splitlines()) == 3


def test_while_nothing_has_a_result_no_time_is_guessed(tmp_path):
    told = []
    progress = Progress(three_runs(tmp_path)[0], tmp_path, 2, told.append)
    progress.ended(progress.comparison.trainings()[0], TrainingFailed('boom'))
    assert progress.seconds_left() == 0.0
    assert told[0].endswith('; 0 of 6 done')


def test_a_result_of_other_settings_is_refused_and_the_tables_stay(progress, tmp_path):
    progress.write_tables()
    before = (tmp_path / TABLE).read_text(), (tmp_path / TABLE_CSV).read_text()
    run = replace(progress.comparison.trainings()[0].run, config='x = 2\n')
    with pytest.raises(ValueError, match='holds the result of other settings: x was 1 and is 2'):
        Progress(replace(progress.comparison, runs=(run,)), tmp_path, 1, print)
    assert ((tmp_path / TABLE).read_text(), (tmp_path / TABLE_CSV).read_text()) == before


def test_results_of_other_commands_come_with_the_next_end(progress, tmp_path):
    """One of other settings is a failure of its training, and no others."""
    a0, b0, other, a1, *_ = progress.comparison.trainings()
    progress.store(b0)
    file = b0.folder / RESULT
    file.write_text(file.read_text().replace('"x": 1', '"x": 2'))
    progress.store(a1, 12.34)
    progress.ended(other, TrainingFailed('boom'))
    assert 'holds the result of other settings' in progress.failures[b0]
    assert set(progress.failures) == {b0, other}
    assert set(progress.results) == {a0, a1}
    assert '| 2 | 36.17 ± ' in (tmp_path / TABLE).read_text()  # of 60 and 12.34


def test_a_training_that_ends_without_a_result_has_failed(progress):
    _, b0, *_ = progress.comparison.trainings()
    progress.ended(b0, None)
    assert progress.failures[b0].startswith('it left no result')


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """A function: arguments of ``pab compare`` -> its status and output; it asks for three runs and trains none."""

    def compare(*args, stub='pab.cli.compare.train_here', act=lambda *_: None):
        asked = []
        monkeypatch.setattr('pab.cli.compare.read_comparison', lambda *args: asked.append(args) or comparison)
        monkeypatch.setattr(stub, act)
        monkeypatch.setattr('sys.argv', ['pab compare', 'x.py', '--work-dir', str(tmp_path), *args])
        with pytest.raises(SystemExit) as ended:
            main()
            sys.exit(0)
        return ended.value.code, capsys.readouterr(), asked[0] if asked else None

    comparison = three_runs(tmp_path)[0]
    return compare


def test_collect_goes_by_the_last_training(compare, tmp_path):
    code, _, (_, seeds, _, options) = compare('--collect')
    assert (code, seeds, options) == (0, 3, {})
    compare('--seeds', '5', '--cfg-options', 'train_cfg.max_epochs=2')
    assert json.loads((tmp_path / COMMAND).read_text()) == {'seeds': 5, 'cfg_options': {'train_cfg.max_epochs': 2}}
    _, _, (_, seeds, _, options) = compare('--collect')
    assert (seeds, options) == (5, {'train_cfg.max_epochs': 2})
    _, _, (_, seeds, _, options) = compare('--collect', '--seeds', '1', '--cfg-options', 'x=1')
    assert (seeds, options) == (1, {'train_cfg.max_epochs': 2, 'x': 1})
    assert json.loads((tmp_path / COMMAND).read_text())['seeds'] == 5


def test_collect_needs_a_folder(compare, tmp_path):
    code, _, _ = compare('--collect', '--work-dir', str(tmp_path / 'mistyped'))
    assert code == f'error: --collect: there is no {tmp_path}/mistyped with results; name it by --work-dir'
    assert not (tmp_path / 'mistyped').exists()


def test_interrupted_trainings_are_no_success(compare):
    code, out, _ = compare()
    assert code == '6 trainings have no result: they were interrupted; start this again'
    assert '6 of 6 trainings have no result yet' in out.out


def test_the_output_is_not_a_table_that_another_command_wrote(compare, tmp_path):
    real = write_page

    def write(*args):
        (tmp_path / TABLE).write_text('of another command')
        return real(*args)

    _, out, _ = compare('--collect', stub='pab.cli.compare.write_page', act=write)
    assert 'What is compared.' in out.out
    assert 'of another command' not in out.out


@pytest.mark.parametrize('place', ['pab.cli.compare.read_comparison', 'pab.cli.compare.write_page'])
def test_ctrl_c_while_nothing_is_trained_is_one_line(compare, place):
    def interrupted(*_):
        raise KeyboardInterrupt

    code, out, _ = compare('--collect', stub=place, act=interrupted)
    assert (code, out) == (130, ('', '\nStopped\n'))


def test_the_pictures_of_the_results_are_drawn_from_their_tables():
    docs = Path(__file__).parents[2] / 'docs'
    script, page = runpy.run_path(str(docs / 'pictures' / 'draw.py')), (docs / 'results.md').read_text()
    rows = script['rows_of'](page)
    dense, sgd = rows[:2]
    assert [row.run.name for row in (dense, sgd, rows[-1])] == [
        'dense, SGD',
        'SynFlow, weights by SGD',
        'magnitude with rewinding, weights by SGD',
    ]
    assert len(rows) == 25
    assert sgd.accuracy() == (61.28, 0.04)
    assert rows[-1].accuracy() == (71.05, None)
    assert [sgd.mean(key) for key in ('density', 'bit_operations', 'size')] == pytest.approx([0.3, 4.23e15, 358e3])
    assert dense.mean('size') == pytest.approx(1.11e6)
    figures = draw_amounts(rows)
    assert len(figures) == 3
    small = script['draw_small'](page, script['ZOO'].read_text())
    points = {line.get_label(): line[0].get_xydata().tolist() for line in small.axes[0].containers}
    assert points['TopFlips, short budget'] == [[26400, 41.9], [33300, 54.5]]
    own = {f'zoo/{file.stem}': file.stat().st_size for file in script['ZOO'].parent.glob('*.pab')}
    assert {name: points[name][0][0] for name in points if 'zoo/' in name} == own
    assert all(
        (docs / 'pictures' / f'{name}.png').is_file() and f'pictures/{name}.png' in page
        for name in [*figures, 'accuracy_up_to_100_kb']
    )
