"""Images without labels, to be predicted: files, folders, Parquet, arrays."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zoo_ray.benchmarks.arrays import read_images
from zoo_ray.benchmarks.folder import SUFFIXES
from zoo_ray.benchmarks.images import common_mode, decode, fit
from zoo_ray.benchmarks.names import shown_path
from zoo_ray.benchmarks.parquet import encoded_images
from zoo_ray.errors import UserError
from zoo_ray.task import Images


class Loose(NamedTuple):
    """Images, uint8, shape (samples, height, width, channels), and what each is called."""

    names: list[str]
    images: Images


def read_loose(
    paths: Sequence[str], *, shape: tuple[int, int, int] | None, scale: bool = False
) -> Loose:
    """Read images to be predicted.

    Args:
        paths: image files; folders, whose image files are taken in order of their names, those of
            folders within too; Parquet files with a column of encoded images; .npz files with
            `images` (or `x_test`, `test_images`).
        shape: height, width and channels that they must have; None: those of the first.
        scale: whether images of another size are scaled to cover it, and cut at the centre.

    Raises:
        UserError: there is no image, or one cannot be read or has another size.
    """
    names: list[str] = []
    arrays: list[Images] = []
    files = [file for given in paths for file in _files(given)]
    for is_npz, group in groupby(files, lambda file: file.suffix == ".npz"):
        if is_npz:
            parts = [(file.name, read_images(file)) for file in group]
            called = [f"{name}[{row}]" for name, images in parts for row in range(len(images))]
        else:
            encoded = [image for file in group for image in _encoded(file)]
            called = [name for name, _ in encoded]
            parts = [(called[0], _decoded(encoded, shape, scale))]
        for name, images in parts:
            height, width, channels = images.shape[1:]
            shape = shape or (height, width, channels)
            arrays.append(_of_shape(images, shape, scale, where=name))
        names += called
    return Loose(names, np.concatenate(arrays))


_Encoded = tuple[str, Callable[[], bytes]]
"""An image's name, and what reads its file."""


def _encoded(path: Path) -> list[_Encoded]:
    if path.suffix == ".parquet":
        contents = encoded_images(path)
        return [
            (f"{path.name}[{row}]", partial(bytes, content)) for row, content in enumerate(contents)
        ]
    return [(str(path), partial(_read, path))]


def _decoded(
    encoded: Sequence[_Encoded], shape: tuple[int, int, int] | None, scale: bool
) -> Images:
    def where(position: int) -> str:
        return shown_path(encoded[position][0])

    def read(position: int) -> bytes:
        return encoded[position][1]()

    if shape is None:
        mode = common_mode(map(read, range(len(encoded))), where=where)
        return decode(len(encoded), read=read, mode=mode, size=None, where=where, others="others")
    return decode(
        len(encoded),
        read=read,
        mode="L" if shape[2] == 1 else "RGB",
        size=shape[:2],
        where=where,
        scale=scale,
        others="the task's images",
        remedy="--scale brings images to the size of the task's",
    )


def _of_shape(images: Images, shape: tuple[int, int, int], scale: bool, *, where: str) -> Images:
    """The images, if they are of a shape or may be brought to it."""
    height, width, channels = shape
    if images.shape[3] != channels:
        kinds = {1: "grey", 3: "colour"}
        raise UserError(
            f"{where}: {kinds[images.shape[3]]} images, where the task's are {kinds[channels]}; "
            "convert them"
        )
    if images.shape[1:3] != (height, width) and not scale:
        raise UserError(
            f"{where}: {images.shape[2]}x{images.shape[1]} pixels, where the task's images have "
            f"{width}x{height}; --scale brings them to it"
        )
    return fit(images, size=(height, width))


def _files(given: str) -> list[Path]:
    path = Path(given)
    try:
        if path.is_dir():
            files = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in SUFFIXES and file.is_file()
            )
            if not files:
                raise UserError(
                    f"{shown_path(path)}: no images here ({', '.join(SUFFIXES)}); give files, or a "
                    "folder of them"
                )
            return files
        if path.is_file():
            return [path]
    except OSError as error:
        raise UserError(f"{shown_path(path)}: cannot be read ({error.strerror})") from None
    raise UserError(f"{shown_path(path)}: no such file or folder; give images")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{shown_path(path)}: cannot be read ({error.strerror})") from None
