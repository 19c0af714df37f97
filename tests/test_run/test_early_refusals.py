"""Settings that would fail late, or never be noticed, are refused in one line before any work."""

import copy

import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from pab.costs.run import masks_of_config, run_costs
from pab.registry import RUNNERS
from pab.run import RunHook, check_config
from pab.run.config import plain_config
from pab.run.hook_points import check_hook
from pab.run.launch import errors_in_one_line
from tests.small_run import small_config

BEST, CLIP, SGD = 'default_hooks__checkpoint__save_best', 'optim_wrapper__clip_grad', 'optim_wrapper__optimizers__sgd__'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({CLIP: 1.0}, r'optim_wrapper.clip_grad must be a dict such as dict\(max_norm=1.0\), or None, got 1.0'),
        ({CLIP: dict(max_norm=-1)}, r'clip_grad.max_norm must be a number above 0, got -1'),
        ({CLIP: dict(max_norm=float('nan'))}, r'clip_grad.max_norm must be a number above 0, got nan'),
        ({CLIP: dict(max_norm=1, norm_type='two')}, r"clip_grad.norm_type must be a number above 0, got 'two'"),
        ({CLIP: dict(type='value', clip_value=True)}, r'clip_grad.clip_value must be a number above 0, got True'),
        ({SGD + 'lr': 'abc'}, r"optim_wrapper.optimizers.sgd.lr must be a number >= 0, got 'abc'"),
        ({SGD + 'lr': None}, r'optim_wrapper.optimizers.sgd.lr must be a number >= 0, got None'),
        ({SGD + 'weight_decay': True}, r'optim_wrapper.optimizers.sgd.weight_decay must be a number >= 0, got True'),
        ({SGD + 'momentum': '0.9'}, r"sgd.momentum must be a number in \[0, 1\), got '0.9'"),
        ({SGD + 'momentum': 1}, r'sgd.momentum must be a number in \[0, 1\), got 1'),
    ],
)
def test_wrong_numbers_of_optimizers(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        check_config(small_config(tmp_path, **options))


LOADER, SCHEDULE, CHECKPOINT = 'train_dataloader__', 'param_scheduler__sgd', 'default_hooks__checkpoint__'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({SCHEDULE: None}, r'param_scheduler.sgd must be a schedule or a list of schedules, got None; \[\] keeps'),
        ({SCHEDULE: [1]}, r'param_scheduler.sgd must be a schedule .*got \[1\]'),
        ({SCHEDULE: [dict(gamma=0.1)]}, r"param_scheduler.sgd\[0\] needs a type, .* got {'gamma': 0.1}"),
        *(
            ({SCHEDULE: [dict(type=kind, **{key: value})]}, rf'param_scheduler.sgd\[0\].{key} must be a {what}')
            for kind, key, value, what in (
                ('MultiStepLR', 'milestones', 5, 'list of numbers, got 5'),
                ('MultiStepLR', 'milestones', ['a'], r"list of numbers, got \['a'\]"),
                ('CosineRestartLR', 'periods', 3, 'list of numbers, got 3'),
                ('CosineAnnealingLR', 'T_max', 'a', "number >= 1, got 'a'"),
                ('CosineAnnealingLR', 'T_max', 0, 'number >= 1, got 0'),
                ('StepLR', 'step_size', None, 'number >= 1, got None'),
                ('ExponentialLR', 'gamma', 'a', "number, got 'a'"),
            )
        ),
        (dict(default_hooks__logger__interval=0), r'default_hooks.logger.interval must be an integer >= 1, got 0'),
        (dict(default_hooks__ar_decay__gamma='abc'), r"default_hooks.ar_decay.gamma must be a number, got 'abc'"),
        (dict(default_hooks__checkpoint__interval='abc'), r"checkpoint.interval must be an integer >= 1, .* got 'abc'"),
        (dict(default_hooks__checkpoint__by_epoch='no'), r"checkpoint.by_epoch must be True or False, got 'no'"),
        *(
            ({CHECKPOINT + key: value}, rf'default_hooks.checkpoint{message}')
            for key, value, message in (
                ('interval', 0, r'.interval must be an integer >= 1, or -1 for none, got 0'),
                ('interval', 0.5, r'.interval must be an integer >= 1, or -1 for none, got 0.5'),
                ('max_keep_ckpts', 0, r'.max_keep_ckpts must be an integer >= 1, or -1 for all, got 0'),
                ('save_begin', -1, r'.save_begin must be an integer >= 0, got -1'),
                ('rule', 'bigger', ': rule must be greater, less or None, but got bigger'),
                ('rule', ['less', 'less'], ': Number of "rule" must be 1 or the same as number of "save_best"'),
                ('save_best', 3, ': "save_best" should be a str or list of str or None'),
            )
        ),
        (
            dict(default_hooks__checkpoint=dict(save_best='error', rule=None)),
            'default_hooks.checkpoint: Cannot infer the rule for key error, thus a specific rule must be specified',
        ),
        (
            dict(custom_hooks=[dict(type='EarlyStoppingHook', monitor='accuracy/top1', rule='bigger')]),
            r'custom_hooks\[0\]: `rule` should be either "greater" or "less"',
        ),
        (dict(default_hooks__prune__pruner=None), r'default_hooks.prune.pruner must be a dict .*type, got None'),
        ({LOADER + 'batch_size': 'abc'}, r"train_dataloader.batch_size must be an integer >= 1, got 'abc'"),
        ({LOADER + 'batch_size': None}, r'train_dataloader.batch_size must be an integer >= 1, got None'),
        ({LOADER + 'num_workers': -1}, r'train_dataloader.num_workers must be an integer >= 0, got -1'),
        ({LOADER + 'prefetch_factor': 2}, r'prefetch_factor needs num_workers >= 1, got 2 with num_workers=0'),
        ({LOADER + 'persistent_workers': True}, r'persistent_workers needs num_workers >= 1, got True'),
        ({LOADER + 'pin_memory': 'abc'}, r"train_dataloader.pin_memory must be True or False, got 'abc'"),
        ({LOADER + 'timeout': 'abc'}, r"train_dataloader.timeout must be a number, got 'abc'"),
        ({LOADER + 'sampler__shuffle': 'abc'}, r"sampler.shuffle must be True or False, got 'abc'"),
        ({LOADER + 'dataset': None}, r'train_dataloader.dataset must be a dict of settings with a type, got None'),
        (
            dict(model__data_preprocessor__mean=0.3),
            r'model.data_preprocessor needs a type.* in data_preprocessor',
        ),
        (dict(model__network__type=None), r"model.network needs a type, the name of a class, got {'type': None"),
        (dict(model__compile='maybe'), r"model.compile must be True or False, got 'maybe'"),
        (dict(default_hooks__prune__pruner__keep_flow=1), r'prune.pruner.keep_flow must be True or False, got 1'),
        (dict(default_hooks__resume_check__allow_changes='yes'), r"allow_changes must be True or False, got 'yes'"),
        (dict(default_hooks__prune__narrow=1), r'default_hooks.prune.narrow must be True or False, got 1'),
        *(
            (dict(model__converter=[dict(type=kind, density=0.5, through_abs=1)]), 'through_abs must be True or False')
            for kind in ('EdgePopup', 'Biprop')
        ),
        *(
            (
                dict(
                    optim_wrapper__optimizers__signs=dict(_delete_=True, type=kind, owns=['Conv2d.weight'], **settings)
                ),
                rf'optim_wrapper.optimizers.signs.{next(iter(settings))} must be a number( >= 0)?, got',
            )
            for kind in ('Bop', 'SecondOrderBop', 'TopFlips', 'Moves')
            for settings in (dict(adaptivity_rate='a'), dict(lr=None), dict(lr=[0.1]))
        ),
        (
            dict(optim_wrapper__optimizers__signs=dict(_delete_=True, type='SecondOrderBop', bias_corrected=1)),
            'optim_wrapper.optimizers.signs.bias_corrected must be True or False, got 1',
        ),
        (dict(model__converter=dict(type='PSG', sparsify=1)), r'model.converter.sparsify must be True or False, got 1'),
        (dict(model__converter=dict(type='PSG', threshold='1e-7')), r"threshold must be a number, got '1e-7'"),
        (dict(model__label_smoothing='abc'), r"model.label_smoothing must be a number, got 'abc'"),
        (dict(data_preprocessor__flip='abc'), r"data_preprocessor.flip must be True or False, got 'abc'"),
        (dict(train_cfg__val_begin='abc'), r"train_cfg.val_begin must be an integer >= 0, got 'abc'"),
        (dict(train_cfg__val_begin=-1), r'train_cfg.val_begin must be an integer >= 0, got -1'),
        (dict(model__weights=3), r"model.weights must be the path of a file, a name of torchvision's, or None, got 3"),
        (
            dict(custom_hooks=[dict(type='EarlyStoppingHook', monitor='accuracy/top1', patience=-3)]),
            r'custom_hooks\[0\].patience must be an integer >= 0, got -3',
        ),
        (dict(train_cfg__dynamic_intervals=3), r'train_cfg.dynamic_intervals must be a list of pairs .*, got 3'),
        (dict(randomness__deterministic='abc'), r"randomness.deterministic must be True or False, got 'abc'"),
        (dict(log_processor__window_size='abc'), r"log_processor.window_size must be a number, got 'abc'"),
        (dict(env_cfg__dist_cfg__timeout='abc'), r"env_cfg.dist_cfg.timeout must be a number of seconds .*'abc'"),
        (dict(load_from=5), r'load_from must be the path or address of a file, or None, got 5'),
        ({SGD + 'lr': -1}, r'optim_wrapper.optimizers.sgd.lr must be a number >= 0, got -1'),
        (dict(optim_wrapper__optimizers__sgd=None), r'optim_wrapper.optimizers.sgd must be a dict .*, got None'),
        (dict(custom_hooks=[dict(monitor='x')]), r"custom_hooks\[0\] needs a type, .*{'monitor': 'x'}"),
    ],
)
def test_values_that_nothing_can_use(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        check_config(small_config(tmp_path, **options))


@pytest.mark.parametrize(
    'options',
    [
        {SCHEDULE: []},
        {
            SCHEDULE: [
                dict(type='CosineAnnealingLR', T_max=None),
                dict(type='MultiStepLR', milestones=(1, 2), gamma=0.1),
            ]
        },
        {SCHEDULE: dict(_delete_=True, type='ReduceOnPlateauLR', min_value=[0.1, 0.2], monitor='x')},
        dict(param_scheduler=None),
        dict(train_cfg__dynamic_intervals=[(50, 1)]),
        {LOADER + 'num_workers': 1, LOADER + 'prefetch_factor': 2},
        dict(val_evaluator=dict(_delete_=True, metrics=[dict(type='Accuracy')])),
        {'optim_wrapper__optimizers__sgd__foreach': None},
    ],
)
def test_values_that_are_fine(tmp_path, options):
    check_config(small_config(tmp_path, **options))


def test_what_mmengine_asserts_is_one_line():
    text = r'error: AssertionError: "save_best" should be a str .*\(PAB_TRACEBACK=1'
    with pytest.raises(SystemExit, match=text), errors_in_one_line():
        CheckpointHook(save_best=3)
    with pytest.raises(SystemExit) as ended, errors_in_one_line():
        raise ValueError('a\n  message')  # of somebody else
    assert ended.value.code == 'error: ValueError: a message (PAB_TRACEBACK=1 shows where)'
    with pytest.raises(AssertionError), errors_in_one_line():
        assert not small_config  # no setting


@pytest.mark.parametrize('norm', [float('inf'), 'inf', 2])
def test_every_norm_is_taken_and_can_be_written(tmp_path, norm):
    cfg = plain_config(small_config(tmp_path, **{CLIP: dict(max_norm=1.0, norm_type=norm)}))
    check_config(cfg)
    again = type(cfg).fromstring(f'x = {cfg.optim_wrapper.clip_grad.norm_type!r}', '.py')
    assert float(again.x) == float(norm)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({BEST: 'accuracy/top2'}, r"CheckpointHook.save_best: .*no metric 'accuracy/top2'; did you mean accuracy/top1"),
        ({BEST: ['accuracy/top1', 'f1']}, r"save_best: .*no metric 'f1'; it has accuracy/top1, cross_entropy"),
        (dict(default_hooks__report__metric='accuracy/top5', report=True), r"ReportHook.metric: .*'accuracy/top5'"),
        (dict(default_hooks__report__metric='cross_entropy', report=True), r'ReportHook: metric must be an accuracy'),
        (dict(val_evaluator__topk=(5,)), r'Accuracy: topk must not exceed the number of classes, 4, got 5'),
        (dict(val_evaluator__prefix='own'), r"'accuracy/top1'; did you mean own/accuracy/top1"),
        (dict(custom_hooks=[dict(type='EarlyStoppingHook', monitor='loss')]), r"EarlyStoppingHook.monitor: .*'loss'"),
        (
            {'param_scheduler__sgd': [dict(type='ReduceOnPlateauLR', monitor='loss')]},
            r"param_scheduler: monitor: .*'loss'",
        ),
    ],
)
def test_metrics_that_no_evaluator_gives(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        RUNNERS.build(small_config(tmp_path, **options)).train()
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize(('length', 'warns'), [(3, False), (5, True)])
def test_a_schedule_longer_than_the_run_is_told(tmp_path, length, warns):
    """Of a run of three epochs, 30 steps."""
    said = []
    for entry in (
        dict(T_max=length),
        dict(end=length),
        dict(T_max=length, convert_to_iter_based=True),
        dict(type='OneCycleLR', eta_max=0.1, total_steps=length),
    ):
        schedules = dict(sgd=[dict(type='CosineAnnealingLR') | entry], signs=[])
        cfg = small_config(tmp_path, param_scheduler=dict(_delete_=True, **schedules), default_hooks__ar_decay=None)
        runner = RUNNERS.build(cfg)
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        note = lambda record: said.append(record.getMessage()) or True  # noqa: E731
        runner.logger.addFilter(note)
        runner.build_param_scheduler(cfg.param_scheduler)
        runner.logger.removeFilter(note)
    told = [line for line in said if 'does not reach its end' in line]
    assert len(told) == 4 * warns
    if warns:
        assert 'param_scheduler.sgd: CosineAnnealingLR takes 5 epochs and the run has 3, so lr' in told[0]
        assert 'takes 50 steps and the run has 30' in told[2]


@pytest.mark.usefixtures('untraced')
def test_costs_of_one_optimizer_without_a_constructor(tmp_path):
    """The network and its step are those of the same optimizer that owns everything by a rule."""
    cfg = small_config(tmp_path)
    sgd = dict(type='SGD', lr=0.1)
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=sgd)
    alone = run_costs(cfg, masks_of_config(cfg))
    cfg.optim_wrapper = dict(constructor='OwnershipConstructor', optimizers=dict(sgd=dict(sgd, owns='rest')))
    assert alone == run_costs(cfg, masks_of_config(cfg))


def test_a_helper_that_begins_with_check_is_no_point():
    helpers = dict(check_results=lambda self, results: None, check_x=lambda self, runner: None)
    check_hook(type('MineHook', (RunHook,), helpers)())
    with pytest.raises(ValueError, match=r"'check_resumes'; did you mean check_resume"):
        check_hook(type('MineHook', (RunHook,), dict(check_resumes=lambda self, runner, checkpoint: None))())


def test_another_loop_is_refused_before_its_arguments_are():
    cfg = Config(dict(train_cfg=dict(type='IterBasedTrainLoop', max_epochs=3)))
    with pytest.raises(ValueError, match=r"which IterBasedTrainLoop does not; set type='ResumableEpochLoop'"):
        check_config(cfg)


def test_training_images_must_not_validate(tmp_path):
    folder = dict(_delete_=True, type='ImageFolder', val_share=0.2)
    parts = dict(train_dataloader=dict(dataset=folder), val_dataloader=dict(dataset=dict(folder, split='val')))
    test = dict(dataset=dict(_delete_=True, type='ImageFolder', split='test'))  # a folder of its own
    check_config(small_config(tmp_path, **copy.deepcopy(parts), test_dataloader=test))
    for other in (dict(val_share=0.3), dict(val_share=None), dict(split_seed=1)):
        changed = copy.deepcopy(parts)
        changed['val_dataloader']['dataset'] |= other
        with pytest.raises(ValueError, match='divided alike, or images of the training validate; train_dataloader has'):
            check_config(small_config(tmp_path, **changed, test_dataloader=copy.deepcopy(test)))
