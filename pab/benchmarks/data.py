"""Training input beside the usual pipelines of PIL images and torchvision transforms."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ..datasets import EpochSampler, ImageNet, collate_images
from ..datasets.in_memory import InMemoryDataset
from ..models import ImagePreprocessor
from .images import cifar, photographs
from .timing import Row, Settings, alternate, row

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
WORKERS = 2
OURS = 'pab, one process'


class PILImages(Dataset):
    """The same images as a list of PIL images, each transformed on its own: what torchvision's datasets do."""

    def __init__(self, images: Callable[[int], Image.Image], labels: Iterable[int], transform: Callable) -> None:
        self.images, self.labels, self.transform = images, list(labels), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(self.images(index)), self.labels[index]


def measure(settings: Settings) -> list[Row]:
    """CIFAR-10, and photographs at 224 x 224."""
    batch, batches, photos = (4, 3, 4) if settings.tiny else (128, 60, 64)
    with tempfile.TemporaryDirectory() as scratch:
        rows = _cifar(batch, batches, settings)
        return rows + _photographs(photos, Path(scratch), settings)


def _cifar(batch: int, batches: int, settings: Settings) -> list[Row]:
    dataset, source = cifar(batch * batches)
    runs = {
        OURS: _our_epoch(dataset, batch, settings, crop_padding=4),
        f'PIL, DataLoader, {WORKERS} workers': _pil_epoch(_as_pil(dataset), batch, WORKERS, settings),
    }
    return _compare(f'{source}, batch {batch}', runs, batch * batches, batch, settings)


def _photographs(count: int, scratch: Path, settings: Settings) -> list[Row]:
    dataset, source = photographs(count, scratch)
    transform = transforms.Compose([transforms.RandomResizedCrop(224), *_common()])
    pil = PILImages(lambda i: Image.open(dataset.path(i)).convert('RGB'), dataset.labels.tolist(), transform)
    batch = min(count, 32)
    runs = {
        OURS: _our_epoch(dataset, batch, settings, crop_padding=0),
        'PIL, one process': _pil_epoch(pil, batch, 0, settings),
    }
    few = Settings(settings.device, min(settings.repeats, 5), min(settings.warmup, 1))
    return _compare(f'{source}, 224 x 224', runs, count, batch, few)


def _compare(case: str, runs: dict[str, Callable], images: int, batch: int, settings: Settings) -> list[Row]:
    """The rows of an epoch of ours, and of its peer's."""
    ours, peer = runs
    seconds = alternate(runs, settings)
    rows = [row('data', case, ours, seconds, peer=peer), row('data', case, peer, seconds)]
    for line in rows:
        line.details |= {
            'images_per_second': round(1e3 * images / line.median),
            'per_batch': f'{line.median * batch / images:.3g} ms',
        }
    return rows


def _our_epoch(
    dataset: InMemoryDataset | ImageNet, batch: int, settings: Settings, crop_padding: int
) -> Callable[[], None]:
    loader = DataLoader(dataset, batch, sampler=EpochSampler(dataset, seed=0), collate_fn=collate_images)
    flip = crop_padding > 0  # a photograph is flipped where it is cropped
    preprocessor = ImagePreprocessor(MEAN, STD, crop_padding=crop_padding, flip=flip).to(settings.device)

    def run() -> None:
        for item in loader:
            preprocessor(item, training=True)

    return run


def _pil_epoch(dataset: Dataset, batch: int, workers: int, settings: Settings) -> Callable[[], None]:
    loader = DataLoader(dataset, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def run() -> None:
        for images, labels in loader:
            images.to(settings.device), labels.to(settings.device)

    return run


def _as_pil(dataset: InMemoryDataset) -> PILImages:
    pixels = dataset.images.permute(0, 2, 3, 1).contiguous().numpy()
    transform = transforms.Compose([transforms.RandomCrop(32, padding=4), *_common()])
    return PILImages(lambda i: Image.fromarray(pixels[i]), dataset.labels.tolist(), transform)


def _common() -> list[Callable]:
    return [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
