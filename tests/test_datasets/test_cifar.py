import functools
import hashlib
import os
import pickle
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from pab.datasets import CIFAR10, CIFAR100, class_names, count_classes, number_classes_
from pab.registry import DATASETS

PER_FILE = 4
NAMES10 = [f'class{label}'.encode() for label in range(10)]


def pixels_of(seed):
    return np.random.RandomState(seed).randint(0, 256, (PER_FILE, 3072)).astype(np.uint8)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.fixture
def cifar10(tmp_path):
    """A root with six small files: data_batch_k holds the pixels of seed k, test_batch those of seed 6."""
    folder = tmp_path / 'cifar-10-batches-py'
    for seed, name in enumerate([*(f'data_batch_{part}' for part in range(1, 6)), 'test_batch'], start=1):
        labels = [(seed + i) % 10 for i in range(PER_FILE)]
        write(folder / name, {b'data': pixels_of(seed), b'labels': labels, b'batch_label': b'text'})
    write(folder / 'batches.meta', {b'label_names': NAMES10})
    return tmp_path


@pytest.fixture
def read_test_set(cifar10):
    """A function: the content or the bytes of test_batch -> the test set."""

    def read(content, protocol=2):
        path = cifar10 / 'cifar-10-batches-py' / 'test_batch'
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
        return CIFAR10(split='test', data_root=cifar10)

    return read


def pixels_in(dataset):
    return dataset.images.contiguous().numpy().reshape(-1, 3072)


def test_reads_both_splits_in_order(cifar10):
    train = DATASETS.build({'type': 'CIFAR10', 'data_root': str(cifar10)})
    test = CIFAR10(split='test', data_root=cifar10)
    assert train.labels.tolist()[: 2 * PER_FILE] == [1, 2, 3, 4, 2, 3, 4, 5]
    assert train.images.shape == (5 * PER_FILE, 3, 32, 32)
    assert np.array_equal(pixels_in(train), np.concatenate([pixels_of(part) for part in range(1, 6)]))
    assert np.array_equal(pixels_in(test), pixels_of(6))
    assert train.images.dtype == torch.uint8 and train.labels.dtype == torch.int64
    assert train.metainfo['classes'][3] == 'class3'


def test_class_names_are_optional(cifar10):
    (cifar10 / 'cifar-10-batches-py' / 'batches.meta').unlink()
    dataset = CIFAR10(data_root=cifar10)
    assert class_names(dataset) is None
    assert count_classes(dataset) == 10
    labels = dataset.labels.tolist()
    number_classes_(dataset, [name.decode() for name in NAMES10], 'train_dataloader', 'the checkpoint')
    assert dataset.labels.tolist() == labels


def test_cifar100_reads_fine_labels(tmp_path):
    for name, seed in (('train', 1), ('test', 2)):
        content = {b'data': pixels_of(seed), b'fine_labels': [99, 0, 5, 7], b'coarse_labels': [1, 1, 1, 1]}
        write(tmp_path / 'cifar-100-python' / name, content)
    assert CIFAR100(data_root=tmp_path).labels.tolist() == [99, 0, 5, 7]
    assert len(CIFAR100(split='test', data_root=tmp_path)) == PER_FILE


@pytest.mark.parametrize('protocol', range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_and_string_keys(read_test_set, protocol):
    test = read_test_set({'data': pixels_of(9), 'labels': np.arange(PER_FILE)}, protocol)
    assert np.array_equal(pixels_in(test), pixels_of(9))


def test_names_of_both_numpy_versions(read_test_set):
    content = pickle.dumps({b'data': pixels_of(6), b'labels': [1, 2, 3, 4]}, protocol=2)
    new, old = b'cnumpy._core.multiarray\n', b'cnumpy.core.multiarray\n'
    other = content.replace(new, old) if new in content else content.replace(old, new)
    assert other != content
    assert len(read_test_set(other)) == PER_FILE


def test_byte_order_and_layout(read_test_set):
    for labels in (np.array([1, 2, 3, 4], dtype='>i4'), np.asfortranarray([[1, 9], [2, 9], [3, 9], [4, 9]])[:, 0]):
        test = read_test_set({b'data': np.asfortranarray(pixels_of(9)), b'labels': labels})
        assert test.labels.tolist() == [1, 2, 3, 4]
        assert np.array_equal(pixels_in(test), pixels_of(9))


def test_python2_files_load(read_test_set):
    # as Python 2 wrote the official files: protocol 2, byte strings by SHORT_BINSTRING ('U')
    raw = pixels_of(3)[:1].tobytes()
    content = (
        b'\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R'
        b'(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff'
        b'K\x00tb\x89T\x00\x0c\x00\x00' + raw + b'tbU\x06labels]K\x07au.'
    )
    test = read_test_set(content)
    assert pixels_in(test).tobytes() == raw
    assert test.labels.tolist() == [7]


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize('name', ['data_batch_3', 'batches.meta'])
def test_a_file_that_tries_to_run_code_is_refused(cifar10, tmp_path, name):
    marker, path = tmp_path / 'marker', cifar10 / 'cifar-10-batches-py' / name
    hostile = {b'data': pixels_of(1), b'labels': Hostile(marker)}
    pickle.loads(pickle.dumps(hostile))
    assert marker.is_dir()  # the file would do what it says
    marker.rmdir()
    write(path, hostile)
    with pytest.raises(ValueError, match=rf'{name}: refused, it asks for \w+\.mkdir; data files hold arrays'):
        CIFAR10(data_root=cifar10)
    assert not marker.exists()


@pytest.mark.parametrize(
    'content',
    [
        b'cbuiltins\neval\n(V1\ntR.',
        b'cnumpy\nload\n(Vx\ntR.',
        b'cnumpy.core.multiarray\nscalar\n.',
        b'c_codecs\nencode\n(Vabc\nVzlib_codec\ntR.',
        b'cnumpy\ndtype\n(VO8\nI0\nI1\ntR.',  # objects: numpy would take bytes for addresses
        b'cnumpy\nndarray\n)R(I1\n(I1\ntNI00\nVtext\ntb.',
    ],
)
def test_every_other_global_is_refused(read_test_set, content):
    with pytest.raises(ValueError, match='test_batch: refused, it asks for'):
        read_test_set(content)


@pytest.mark.parametrize('keep', [0, 1, 100, 5000, -1])
def test_truncated_file_is_named(cifar10, keep):
    path = cifar10 / 'cifar-10-batches-py' / 'data_batch_2'
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match='data_batch_2: truncated or damaged'):
        CIFAR10(data_root=cifar10)


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        ({b'data': pixels_of(1).astype(np.float32)}, r'data in .*_1 must be a uint8 .* got float32 \(4, 3072\)'),
        ({b'data': pixels_of(1)[:, :100]}, r'must be a uint8 array of shape \(N, 3072\), got uint8 \(4, 100\)'),
        ({b'data': None}, 'must be a uint8 array .* got NoneType'),
        *(
            ({b'labels': labels}, r'labels in .*data_batch_1 must be 4 integers in 0\.\.9, one for each image')
            for labels in (None, [0, 1, 2], [0.5] * 4, [[0], [1, 2], 3, 4], [0, 1, 2, 10], np.array([0, 1, 2, -1]))
        ),
    ],
)
def test_wrong_content_is_named(cifar10, change, text):
    write(cifar10 / 'cifar-10-batches-py' / 'data_batch_1', {b'data': pixels_of(1), b'labels': [0, 1, 2, 3], **change})
    with pytest.raises(ValueError, match=f'CIFAR10: .*{text}'):
        CIFAR10(data_root=cifar10)


def test_another_pickle_is_named(read_test_set):
    with pytest.raises(ValueError, match='test_batch: refused, it holds a list and not a dict'):
        read_test_set([1, 2])


def test_missing_file_says_where_and_how(tmp_path, monkeypatch):
    monkeypatch.setenv('PAB_DATA', str(tmp_path / 'elsewhere'))
    with pytest.raises(FileNotFoundError) as caught:
        CIFAR10()
    for part in ('CIFAR10: data_batch_1 is missing', str(tmp_path / 'elsewhere'), 'download=True', 'PAB_DATA'):
        assert part in str(caught.value)
    monkeypatch.delenv('PAB_DATA')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=str(tmp_path / 'data' / 'cifar-100-python')):
        CIFAR100()


def test_environment_is_read_when_the_dataset_is_built(cifar10, monkeypatch):
    monkeypatch.setenv('PAB_DATA', str(cifar10))
    assert len(CIFAR10()) == 5 * PER_FILE


@pytest.fixture
def archive(cifar10, tmp_path_factory, monkeypatch):
    """The official archive's stand-in, on a server of this machine."""
    path = tmp_path_factory.mktemp('server') / 'cifar-10-python.tar.gz'
    with tarfile.open(path, 'w:gz') as tar:
        tar.add(cifar10 / 'cifar-10-batches-py', 'cifar-10-batches-py')
    handler = functools.partial(SimpleHTTPRequestHandler, directory=path.parent)
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(CIFAR10, 'url', f'http://127.0.0.1:{server.server_port}/{path.name}')
    monkeypatch.setattr(CIFAR10, 'md5', hashlib.md5(path.read_bytes()).hexdigest())
    yield path
    server.shutdown()
    server.server_close()


def test_download_fetches_what_is_missing_once(archive, tmp_path):
    root = tmp_path / 'new' / 'root'
    (root / 'cifar-10-batches-py').mkdir(parents=True)  # as an interrupted download would leave it
    (root / 'cifar-10-batches-py' / 'data_batch_1').write_bytes(b'')
    assert len(CIFAR10(data_root=root, download=True)) == 5 * PER_FILE
    archive.unlink()
    assert len(CIFAR10(data_root=root, split='test', download=True)) == PER_FILE
    assert {path.name for path in root.iterdir()} == {'cifar-10-batches-py', 'cifar-10-python.tar.gz'}


@pytest.mark.parametrize('damage', ['checksum', 'member', 'network'])
def test_a_download_that_fails_leaves_no_images_and_says_the_way_out(archive, tmp_path, monkeypatch, damage):
    dataset = CIFAR10
    if damage == 'checksum':
        monkeypatch.setattr(CIFAR10, 'md5', '0' * 32)
    elif damage == 'member':
        dataset = CIFAR100
        monkeypatch.setattr(CIFAR100, 'url', CIFAR10.url)
        monkeypatch.setattr(CIFAR100, 'md5', CIFAR10.md5)
    else:
        archive.unlink()
    match = rf'{dataset.__name__}: cannot get http:.*\(md5 {dataset.md5}\) into .*new .*fetch it by other means'
    with pytest.raises(OSError, match=match):
        dataset(data_root=tmp_path / 'new', download=True)
    assert not list((tmp_path / 'new').rglob('*batch*'))


def test_only_the_main_process_downloads_and_the_others_wait(archive, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr('pab.datasets.cifar.barrier', lambda: waited.append(1))
    monkeypatch.setattr('pab.datasets.cifar.is_main_process', lambda: False)
    with pytest.raises(FileNotFoundError):  # nobody else is there who would have fetched it
        CIFAR10(data_root=tmp_path / 'new', download=True)
    CIFAR10(data_root=tmp_path, download=True)  # also a process that finds everything there
    assert len(waited) == 2


@pytest.mark.slow
def test_real_images(cifar10_root):
    train, test = CIFAR10(data_root=cifar10_root), CIFAR10(split='test', data_root=cifar10_root)
    assert torch.bincount(train.labels).tolist() == [5000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    # the published channel means of the set; the stored pixels differ slightly by recompression
    mean = train.images.float().mean(dim=(0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=2e-3, rtol=0)
    assert train.metainfo['classes'][:2] == ('airplane', 'automobile')
