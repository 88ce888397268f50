"""miniImageNet's usual cache: three pickles of images in the order of their classes."""

from pathlib import Path
from typing import Any

import numpy as np

from zoo_ray.benchmarks.source import Source, Split
from zoo_ray.benchmarks.unpickle import load_pickle, text, value
from zoo_ray.errors import UserError
from zoo_ray.task import Images

MINI_IMAGENET_FILES = tuple(f"mini-imagenet-cache-{part}.pkl" for part in ("train", "val", "test"))
# The meta-classes of few-shot learning are classes like any others here.
_CLASSES = (64, 16, 20)
_TRAIN_SHARE = 0.8


def read_mini_imagenet(folder: Path) -> Source:
    """100 classes of 600 colour images of 84 x 84 pixels: those of `train`, `val` and `test`, in
    this order, numbered on. The first 80% of each class, in stored order, are for training.

    Raises:
        UserError: a file is missing, unreadable, not what these files are, or not safe.
    """
    found = [
        _read(folder / file, classes)
        for file, classes in zip(MINI_IMAGENET_FILES, _CLASSES, strict=True)
    ]
    shapes = {
        (len(images) // classes, *images.shape[1:])
        for (images, _), classes in zip(found, _CLASSES, strict=True)
    }
    if len(shapes) > 1:
        why = "its classes or images are not of the size of those in the other files"
        raise _not_a_cache(folder / MINI_IMAGENET_FILES[0], why)
    names = [name for _, called in found for name in called]
    every = np.concatenate([images for images, _ in found])
    per_class = len(every) // len(names)
    labels = np.repeat(np.arange(len(names)), per_class)
    is_train = np.tile(np.arange(per_class) < int(_TRAIN_SHARE * per_class), len(names))
    return Source(
        class_names=tuple(names),
        train=_split(every, labels, is_train),
        test=_split(every, labels, ~is_train),
    )


def _split(images: Images, labels: Any, chosen: Any) -> Split:
    rows = np.flatnonzero(chosen)  # not the images yet: they take a gigabyte
    return Split(
        labels=labels[rows].astype(np.int64),
        read=lambda wanted: np.ascontiguousarray(images[rows[wanted]]),
    )


def _read(path: Path, classes: int) -> tuple[Images, list[str]]:
    content = load_pickle(path)
    images = value(content, "image_data")
    if not (
        isinstance(images, np.ndarray)
        and images.dtype == np.uint8
        and images.ndim == 4
        and images.shape[3] == 3
        and len(images) > 0
    ):
        raise _not_a_cache(path, "its 'image_data' is no uint8 array of colour images")
    if len(images) % classes:
        raise _not_a_cache(path, f"{len(images)} images are not {classes} classes of equal size")
    per_class = len(images) // classes
    rows_of = value(content, "class_dict")
    if not isinstance(rows_of, dict) or len(rows_of) != classes:
        raise _not_a_cache(path, f"its 'class_dict' does not name {classes} classes")
    names: list[str] = []
    for number in range(classes):
        rows = [*range(number * per_class, (number + 1) * per_class)]
        called = [name for name, its in rows_of.items() if _as_list(its) == rows]
        if len(called) != 1 or not isinstance(called[0], str | bytes):
            raise _not_a_cache(path, "its images are not in the order of their classes")
        names.append(text(called[0], instead=number))
    return images, names


def _as_list(rows: Any) -> list[Any] | None:
    rows = rows.tolist() if isinstance(rows, np.ndarray) and rows.ndim == 1 else rows
    return rows if isinstance(rows, list) else None


def _not_a_cache(path: Path, why: str) -> UserError:
    return UserError(
        f"{path}: not a cache of miniImageNet ({why}); fetch it again, as "
        "mini-imagenet-cache-train.pkl and so on are published"
    )
