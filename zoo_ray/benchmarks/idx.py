"""IDX, the format of MNIST: big-endian arrays of bytes, gzipped or not."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from zoo_ray.benchmarks.source import Source, Split, check_labels, numbered_classes
from zoo_ray.counts import counted
from zoo_ray.errors import UserError

_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
# Deflate cannot do better, so a header that promises more than this times the file is a lie.
_MAX_DEFLATE_RATIO = 1032


def read_idx(folder: Path, *, class_names: tuple[str, ...] | None = None) -> Source:
    """Read `train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte` and so on, each perhaps with .gz.

    Args:
        folder: where the four files lie.
        class_names: names by class number; numbers as names if not given.

    Raises:
        UserError: a file is missing, damaged or not IDX, or images and labels do not match.
    """
    train_images, train_labels = _read_split(folder, "train")
    test_images, test_labels = _read_split(folder, "t10k")
    names = class_names or numbered_classes(train_labels, test_labels)
    return Source(
        class_names=names,
        train=Split.of_arrays(
            train_images,
            check_labels(train_labels, classes=len(names), where=f"{folder}: train labels"),
        ),
        test=Split.of_arrays(
            test_images,
            check_labels(test_labels, classes=len(names), where=f"{folder}: t10k labels"),
        ),
    )


def idx_files_exist(folder: Path) -> bool:
    """Whether all four files of an IDX data set lie in the folder."""
    kinds = [("images", 3), ("labels", 1)]
    return all(_find(folder, split, *kind) for split in ("train", "t10k") for kind in kinds)


def _read_split(folder: Path, split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    images_path = _find(folder, split, "images", 3)
    labels_path = _find(folder, split, "labels", 1)
    if images_path is None or labels_path is None:
        name = f"{split}-images-idx3-ubyte" if images_path is None else f"{split}-labels-idx1-ubyte"
        raise UserError(
            f"{folder}: no {name} (or {name}.gz) here; give the folder that holds the four files "
            "of an IDX data set, as in idx:PATH"
        )
    images = _read_array(images_path, dimensions=3)
    labels = _read_array(labels_path, dimensions=1)
    if len(images) != len(labels):
        raise UserError(
            f"{images_path}: {counted(len(images), 'image')}, but {counted(len(labels), 'label')} "
            f"in {labels_path.name}; fetch both files again"
        )
    return images[..., np.newaxis], labels.astype(np.int64)


def _find(folder: Path, split: str, kind: str, dimensions: int) -> Path | None:
    names = [
        f"{split}-{kind}{separator}idx{dimensions}-ubyte{suffix}"
        for separator in "-."
        for suffix in ("", ".gz")
    ]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_array(path: Path, *, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array of unsigned bytes in an IDX file, after its header has been held to its length."""
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            room = path.stat().st_size * (_MAX_DEFLATE_RATIO if is_gzip else 1)
            # GzipFile has all of BinaryIO that is used here.
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_gzip else file
            shape = _read_header(stream, path=path, dimensions=dimensions)
            promised = math.prod(shape)
            if promised > room:
                raise _damaged(path, f"its header promises {promised} bytes, it cannot hold them")
            content = stream.read(promised)
            if len(content) < promised:
                raise _damaged(path, f"{promised} bytes promised, {len(content)} there")
            # One more read: bytes after the end, or a checksum that gzip has yet to compare.
            if stream.read(1):
                raise _damaged(path, f"more bytes than the {promised} promised by its header")
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from None
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _read_header(stream: BinaryIO, *, path: Path, dimensions: int) -> tuple[int, ...]:
    size = 4 * (1 + dimensions)
    header = stream.read(size)
    magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if not header.startswith(magic):
        raise UserError(
            f"{path}: starts with {header[:4].hex() or 'nothing'}, not with {magic.hex()}, so it "
            f"is no IDX file of bytes in {dimensions} dimensions; fetch it again"
        )
    if len(header) < size:
        raise _damaged(path, "the header is cut off")
    shape: tuple[int, ...] = struct.unpack(f">{dimensions}I", header[4:])
    if 0 in shape:
        raise _damaged(path, f"an array of shape {shape} is empty")
    return shape


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path}: damaged or cut off ({why}); delete it and fetch it again")
