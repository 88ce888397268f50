"""Image files in a folder for each class, as torchvision's ImageFolder has them."""

import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from zoo_ray.benchmarks.images import Mode, common_mode, decode
from zoo_ray.benchmarks.names import printable, shown_path
from zoo_ray.benchmarks.source import Rows, Source, Split
from zoo_ray.errors import UserError
from zoo_ray.task import Images, Labels

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_TEST_FOLDERS = ("test", "validation", "val")
_LAYOUT = "put images into PATH/CLASS/, or into PATH/train/CLASS/ and PATH/test/CLASS/"


def read_folder(folder: Path, *, size: tuple[int, int] | None) -> Source:
    """Open `train/CLASS/` and `test/CLASS/` (or `validation`, or `val`, where there is no `test`),
    or `CLASS/` alone, of which `load_stream` sets a test split aside.

    Classes are numbered in the order of their folders' names, images come in that of their files'.
    What is hidden is ignored, and so are files without an image's suffix. Images are grey (1
    channel) if all training images are, else RGB. As in torchvision, none is turned as its camera
    asks for (EXIF).

    Args:
        folder: where the folders lie.
        size: height and width to which images are brought; None: all are of one size.

    Raises:
        UserError: folders are missing, empty or nested, or the splits differ in their classes.
            Reading the images raises it for one that cannot be read or decoded, or differs in size.
        OSError: a folder cannot be read.
    """
    inside = _folders(folder)
    if "train" in inside and _folders(folder / "train"):
        names = [name for name in _TEST_FOLDERS if name in inside]
        if not names:
            raise UserError(
                f"{shown_path(folder)}: there is train, but no {' or '.join(_TEST_FOLDERS)}; add "
                "one, or give the path of train, to have a share of it set aside "
                "(benchmark.test_share)"
            )
        train, test = _Files.within(folder / "train"), _Files.within(folder / names[0])
        _check_same_classes(train, test)
    else:
        train, test = _Files.within(folder), None
    return Source(
        class_names=tuple(printable(name) or str(n) for n, name in enumerate(train.classes)),
        train=Split(train.labels, lambda rows: train.decode(rows, train.mode, size)),
        test=None
        if test is None
        else Split(test.labels, lambda rows: test.decode(rows, train.mode, size)),
        numbers_last=False,
    )


@dataclass(frozen=True, eq=False)
class _Files:
    """The image files of a split: those of the first class, then of the next."""

    folder: Path
    classes: list[str]
    paths: list[Path]
    labels: Labels

    @classmethod
    def within(cls, folder: Path) -> "_Files":
        classes = _folders(folder)
        if not classes:
            raise UserError(f"{shown_path(folder)}: no folders here; {_LAYOUT}")
        files = [_images(folder / name) for name in classes]
        return cls(
            folder=folder,
            classes=classes,
            paths=[path for paths in files for path in paths],
            labels=np.repeat(np.arange(len(classes)), [len(paths) for paths in files]),
        )

    @cached_property
    def mode(self) -> Mode:
        """`L` if every image is grey, else `RGB`; see Parquet's."""
        every = range(len(self.paths))
        return common_mode(map(self._read, every), where=self._where)

    def decode(self, rows: Rows, mode: Mode, size: tuple[int, int] | None) -> Images:
        return decode(
            len(rows),
            read=lambda position: self._read(rows[position]),
            mode=mode,
            size=size,
            where=lambda position: self._where(rows[position]),
        )

    def _read(self, row: int) -> bytes:
        try:
            return self.paths[row].read_bytes()
        except OSError as error:
            raise UserError(
                f"{self._where(row)}: cannot be read ({error.strerror}); check its permissions, or "
                "take it away"
            ) from None

    def _where(self, row: int) -> str:
        return shown_path(self.paths[row])


def _folders(folder: Path) -> list[str]:
    """The names of the folders within a folder, sorted; a link that leads nowhere is an error."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if not path.name.startswith(".") and stat.S_ISDIR(path.stat().st_mode)
    )


def _images(folder: Path) -> list[Path]:
    """The image files of a class, sorted."""
    paths = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                raise UserError(f"{shown_path(path)}: a folder within that of a class; {_LAYOUT}")
            if path.suffix.lower() in SUFFIXES:
                if not entry.is_file():
                    raise UserError(
                        f"{shown_path(path)}: no file; put the image there, or take it away"
                    )
                paths.append(path)
    if not paths:
        raise UserError(
            f"{shown_path(folder)}: no images here ({', '.join(SUFFIXES)}); put those of the class "
            "here, or take the folder away"
        )
    return paths


def _check_same_classes(train: _Files, test: _Files) -> None:
    for one, other in ((train, test), (test, train)):
        for name in one.classes:
            if name not in other.classes:
                raise UserError(
                    f"{shown_path(one.folder / name)}: a class of which {other.folder.name} has no "
                    f"folder; put images into {shown_path(other.folder / name)}, or take this away"
                )
