"""Images and labels as numpy arrays: of a program, or of a .npz file."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import numpy.typing as npt

from zoo_ray.benchmarks.names import listed, printable, shown_path
from zoo_ray.benchmarks.source import MAX_CLASSES, Source, Split, check_labels, numbered_classes
from zoo_ray.benchmarks.unpickle import text
from zoo_ray.counts import counted
from zoo_ray.errors import UserError
from zoo_ray.task import Images, Labels

Arrays = tuple[npt.ArrayLike, npt.ArrayLike]
"""Images and labels, as `arrays_source` takes them."""

# What a file may call its training images and labels, and its test images and labels.
_NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("images", "labels"),
)


def arrays_source(
    *,
    train: Arrays,
    test: Arrays | None = None,
    class_names: Sequence[str] | None = None,
    where: str = "arrays",
) -> Source:
    """A data set of arrays, for a configuration with `benchmark.dataset: arrays`.

    Args:
        train: images, uint8, shape (samples, height, width) or (samples, height, width, channels)
            with 1 or 3 channels; and labels, integers from 0, shape (samples,) or (samples, 1).
        test: the same; None: a share of each class in `train` is set aside
            (`benchmark.test_share`).
        class_names: names by class number; numbers as names if not given.
        where: what errors call the arrays.

    Raises:
        UserError: the arrays are not of these types and shapes, or do not go together.
    """
    names = None if class_names is None else _checked_names(class_names, where)
    splits = [
        _checked(*_pair(pair, f"{where}: {split}"), names=names, where=f"{where}: {split}")
        for split, pair in (("train", train), ("test", test))
        if pair is not None
    ]
    return Source(
        class_names=names or numbered_classes(*(labels for _, labels in splits)),
        train=Split.of_arrays(*splits[0]),
        test=Split.of_arrays(*splits[1]) if test is not None else None,
    )


def read_npz(path: Path) -> Source:
    """Read `x_train`, `y_train`, `x_test` and `y_test` (as Keras names them), or `train_images`,
    `train_labels`, `test_images` and `test_labels` (as MedMNIST does), or `images` and `labels`,
    and `class_names` if the file has them.

    Other arrays are ignored, so MedMNIST's `val_images` too: published results are of models
    fitted without them.

    Raises:
        UserError: the file is no .npz or damaged, or its arrays are not what `arrays_source` takes.
    """
    where = shown_path(path)
    with _opened(path, where) as content:
        names = _first(_NAMES, content, where)
        arrays = [content[name] for name in names]
        class_names = content["class_names"].tolist() if "class_names" in content else None
    return arrays_source(
        train=(arrays[0], arrays[1]),
        test=(arrays[2], arrays[3]) if arrays[2:] else None,
        class_names=class_names,
        where=where,
    )


def read_images(path: Path) -> Images:
    """Read the images of a .npz file, without labels: `images`, else `x_test` or `test_images`.

    Raises:
        UserError: the file is no .npz or damaged, or its array is not what `arrays_source` takes.
    """
    where = shown_path(path)
    with _opened(path, where) as content:
        (name,) = _first((("images",), ("x_test",), ("test_images",)), content, where)
        return _checked_images(content[name], where)


@contextmanager
def _opened(path: Path, where: str) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """The arrays of a file; what is wrong with it is an error that names it."""
    try:
        with path.open("rb") as file:
            if not is_zipfile(file):
                raise ValueError("no archive of arrays")
        with np.load(path, allow_pickle=False) as content:
            yield content
    except UserError:
        raise
    except Exception as error:  # a damaged archive can make its readers raise anything
        why = printable(str(error) or type(error).__name__, limit=160)
        raise UserError(
            f"{where}: not a readable .npz file ({why}); save it again, by numpy.savez"
        ) from None


def _first(
    known: Sequence[tuple[str, ...]], content: Mapping[str, Any], where: str
) -> tuple[str, ...]:
    """The first names that a file has."""
    for names in known:
        if {*names} <= content.keys():
            return names
    raise UserError(
        f"{where}: its arrays are {listed(content)}; expected are "
        f"{', or '.join(map(listed, known))}; save them so, by numpy.savez"
    )


def _checked_names(class_names: Sequence[str], where: str) -> tuple[str, ...]:
    names = _as_array(class_names, f"{where}: class_names")
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise UserError(
            f"{where}: class_names: {_described(names)}; give a string for each class number"
        )
    return tuple(text(name, instead=number) for number, name in enumerate(names))


def _pair(pair: Arrays, where: str) -> Arrays:
    if not isinstance(pair, tuple | list) or len(pair) != 2:  # an array may be of two images
        raise UserError(f"{where}: not a pair; give (images, labels)")
    return pair[0], pair[1]


def _checked(
    images: npt.ArrayLike, labels: npt.ArrayLike, *, names: tuple[str, ...] | None, where: str
) -> tuple[Images, Labels]:
    images = _checked_images(images, f"{where} images")
    labels = _as_array(labels, f"{where} labels")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise UserError(
            f"{where} labels: {_described(labels)}; allowed are integers, class numbers from 0, of "
            "shape (samples,) or (samples, 1); convert them"
        )
    if len(images) != len(labels):
        raise UserError(
            f"{where}: {counted(len(images), 'image')}, but {counted(len(labels), 'label')}; give "
            "each image one"
        )
    classes = MAX_CLASSES if names is None else len(names)
    return images, check_labels(labels, classes=classes, where=f"{where} labels")


def _checked_images(images: npt.ArrayLike, where: str) -> Images:
    images = _as_array(images, where)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UserError(
            f"{where}: {_described(images)}; allowed is uint8 of shape (samples, height, "
            "width) or (samples, height, width, channels) with 1 or 3 channels; convert them"
        )
    if 0 in images.shape:
        raise UserError(f"{where}: {_described(images)}, which is empty; give some")
    return images


def _as_array(given: npt.ArrayLike, where: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(given)
    except ValueError as error:
        raise UserError(
            f"{where}: no array ({printable(str(error), limit=200)}); all must be of one shape"
        ) from None


def _described(array: npt.NDArray[Any]) -> str:
    return printable(f"an array of {array.dtype} and shape {array.shape}", limit=200)
