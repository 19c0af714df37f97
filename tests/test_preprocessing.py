"""What a config says of the images that its network takes."""

from pab.preprocessing import preprocessing_of

ABOVE = dict(type='ImagePreprocessor', mean=[0.5], std=[0.5])
INSIDE = dict(type='ImagePreprocessor', mean=[0.25], std=[0.75])


def test_the_preprocessor_of_the_model_counts_before_that_of_the_top_level():
    assert preprocessing_of(dict(model={}, data_preprocessor=ABOVE)) == dict(mean=[0.5], std=[0.5])
    config = dict(model=dict(data_preprocessor=INSIDE), data_preprocessor=ABOVE)
    assert preprocessing_of(config) == dict(mean=[0.25], std=[0.75])
    assert preprocessing_of(dict(model=dict(data_preprocessor=None), data_preprocessor=ABOVE)) == {}
    assert preprocessing_of({}) == {}


def test_sizes_are_those_of_the_test_set_or_its_defaults():
    dataset = dict(type='ImageNet', data_root='nowhere', split='val')
    assert preprocessing_of(dict(test_dataloader=dict(dataset=dataset))) == dict(resize=256, size=224)
    dataset['size'] = 128
    assert preprocessing_of(dict(test_dataloader=dict(dataset=dataset))) == dict(resize=146, size=128)
    dataset['resize'] = 200
    assert preprocessing_of(dict(test_dataloader=dict(dataset=dataset))) == dict(resize=200, size=128)
    assert preprocessing_of(dict(test_dataloader=dict(dataset=dict(type='CIFAR10')))) == {}


def test_transforms_of_ones_own_stand_for_the_sizes():
    dataset = dict(type='ImageFolder', split='val', grey=True, transforms=[dict(type='Resize', size=[8, 8])])
    known = preprocessing_of(dict(test_dataloader=dict(dataset=dataset)))
    assert known == dict(grey=True, transforms=[dict(type='Resize', size=[8, 8])])
