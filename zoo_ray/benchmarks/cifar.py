"""CIFAR's own format: pickled batches of flat images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zoo_ray.benchmarks.source import Source, Split
from zoo_ray.benchmarks.unpickle import load_pickle, text, value
from zoo_ray.counts import counted
from zoo_ray.errors import UserError
from zoo_ray.task import Images, Labels

CIFAR10_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
CIFAR100_FILES = ("meta", "train", "test")
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_SHAPE = (3, 32, 32)


def read_cifar10(folder: Path) -> Source:
    """Read CIFAR-10: colour images of 32x32 pixels in 10 classes.

    Raises:
        UserError: a batch is missing, unreadable, not what CIFAR's batches are, or not safe.
    """
    *train, test = (folder / name for name in CIFAR10_FILES)
    return _read(train, test, label_key="labels", class_names=CIFAR10_CLASSES)


def read_cifar100(folder: Path) -> Source:
    """Read CIFAR-100: 100 fine classes, by the names in its `meta`.

    Raises:
        UserError: as `read_cifar10`.
    """
    path = folder / "meta"
    names = value(load_pickle(path), "fine_label_names")
    if not (
        isinstance(names, list)
        and len(names) == 100
        and all(isinstance(name, str | bytes) for name in names)
    ):
        raise _not_a_batch(path, "its 'fine_label_names' is no list of 100 names")
    class_names = tuple(text(name, instead=number) for number, name in enumerate(names))
    return _read(
        [folder / "train"], folder / "test", label_key="fine_labels", class_names=class_names
    )


def _read(
    train: Sequence[Path], test: Path, *, label_key: str, class_names: tuple[str, ...]
) -> Source:
    classes = len(class_names)
    return Source(
        class_names=class_names,
        train=_read_split(train, label_key, classes),
        test=_read_split([test], label_key, classes),
    )


def _read_split(paths: Sequence[Path], label_key: str, classes: int) -> Split:
    batches = [_read_batch(path, label_key, classes) for path in paths]
    return Split.of_arrays(
        np.concatenate([images for images, _ in batches]),
        np.concatenate([labels for _, labels in batches]),
    )


def _read_batch(path: Path, label_key: str, classes: int) -> tuple[Images, Labels]:
    batch = load_pickle(path)
    images, labels = value(batch, "data"), value(batch, label_key)
    pixels = int(np.prod(_SHAPE))
    if not (
        isinstance(images, np.ndarray)
        and images.dtype == np.uint8
        and images.ndim == 2
        and images.shape[1] == pixels
    ):
        raise _not_a_batch(path, f"its 'data' is no uint8 array of shape (images, {pixels})")
    if not (isinstance(labels, list) and all(type(label) is int for label in labels)):
        raise _not_a_batch(path, f"its {label_key!r} is no list of integers")
    if len(labels) != len(images):
        raise _not_a_batch(
            path, f"{counted(len(images), 'image')}, but {counted(len(labels), 'label')}"
        )
    wrong = [label for label in labels if not 0 <= label < classes]
    if wrong:
        raise _not_a_batch(path, f"label {wrong[0]} is not among 0 to {classes - 1}")
    planes = np.asarray(images).reshape(-1, *_SHAPE)
    return planes.transpose(0, 2, 3, 1), np.array(labels, dtype=np.int64)


def _not_a_batch(path: Path, why: str) -> UserError:
    return UserError(f"{path}: not a batch of CIFAR images ({why}); delete it and fetch it again")
