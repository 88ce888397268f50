"""Parquet files in Hugging Face's layout: encoded images beside their labels."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from zoo_ray.benchmarks.images import Mode, common_mode, decode
from zoo_ray.benchmarks.names import listed, printable
from zoo_ray.benchmarks.source import (
    MAX_CLASSES,
    Rows,
    Source,
    Split,
    check_labels,
    numbered_classes,
)
from zoo_ray.counts import counted
from zoo_ray.errors import UserError
from zoo_ray.task import Images, Labels

# Rows that are read at a time.
_BATCH = 1024


def read_parquet(
    folder: Path,
    *,
    wanted: set[int | str],
    image_column: str | None,
    label_column: str | None,
    size: tuple[int, int] | None,
) -> Source:
    """Open `train-*.parquet` and `test-*.parquet` (or `train.parquet` ...), here or in `data/`.

    Without a test split, `validation-*` is the test split. Class names come from Hugging Face's
    metadata, or from the labels if these are strings (sorted), and are class numbers otherwise.
    Images are grey (1 channel) if all training images are, else RGB.

    Args:
        folder: where the files lie.
        wanted: the classes whose images may be asked for, by number or name.
        image_column, label_column: the columns; found by their types if None.
        size: height and width to which images are brought; None: all are of one size.

    Raises:
        UserError: files or columns are missing, damaged or of the wrong type. Reading the images
            raises it for one that cannot be decoded or that differs in size.
    """
    train = _open(_files(folder, ["train"]), image_column, label_column)
    test = _open(_files(folder, ["test", "validation"]), image_column, label_column)
    names = _class_names(train, test)
    train_labels = train.labels(names)
    test_labels = test.labels(names)
    if names is None:
        names = numbered_classes(train_labels, test_labels)

    shown = {printable(label) for label in wanted if isinstance(label, str)}
    numbers = [
        number
        for number, name in enumerate(names)
        if number in wanted or name in wanted or printable(name) in shown
    ]
    train_images, test_images = (
        _EncodedImages(shards, np.flatnonzero(np.isin(labels, numbers)), folder, size)
        for shards, labels in ((train, train_labels), (test, test_labels))
    )
    return Source(
        class_names=tuple(printable(name) or str(n) for n, name in enumerate(names)),
        train=Split(train_labels, lambda rows: train_images.decode(rows, train_images.mode)),
        test=Split(test_labels, lambda rows: test_images.decode(rows, train_images.mode)),
    )


def encoded_images(path: Path) -> list[bytes]:
    """The image files in a Parquet file's column of images.

    Raises:
        UserError: the file cannot be read, or has not just one such column.
    """
    import pyarrow.parquet as pq

    with _reading(path):
        schema = pq.read_schema(path)
    images = [field.name for field in schema if _is_image(field.type)]
    column = _choose("image", None, images, images, schema, path)
    with _reading(path):
        table = pq.read_table(path, columns=[column])
    encoded = []
    for row, image in enumerate(table.column(column).to_pylist()):
        if not (image or {}).get("bytes"):
            raise UserError(f"{path}: row {row} has no image; give rows that have one")
        encoded.append(image["bytes"])
    if not encoded:
        raise UserError(f"{path}: no rows here; give a file that has images")
    return encoded


def _files(folder: Path, splits: Sequence[str]) -> list[Path]:
    """The files of the first split there is; shards in order and complete."""
    for split in splits:
        for place in (folder, folder / "data"):
            shards = sorted(place.glob(f"{split}-*.parquet"))
            if shards:
                _check_complete(shards)
                return shards
            if (place / f"{split}.parquet").is_file():
                return [place / f"{split}.parquet"]
    raise UserError(
        f"{folder}: no {splits[0]}-*.parquet, here or in data/; give the folder that holds a data "
        "set's train-*.parquet and test-*.parquet files, as in parquet:PATH"
    )


def _check_complete(shards: Sequence[Path]) -> None:
    """`train-00000-of-00002.parquet` alone is half a data set, which nobody would notice."""
    numbers = [re.search(r"-(\d+)-of-(\d+)", shard.name) for shard in shards]
    if not all(numbers):
        return
    present = [(int(match[1]), int(match[2])) for match in numbers if match]
    promised = present[0][1]
    if present != [(number, promised) for number in range(promised)]:
        raise UserError(
            f"{shards[0].parent}: {shards[0].name} is one of {promised} shards, and the folder "
            f"holds {counted(len(shards), 'file')} of this split, not just shards 0 to "
            f"{promised - 1}; fetch the missing ones, or remove those of another version"
        )


@dataclass(frozen=True)
class _Columns:
    """Where a file keeps images and labels, and what it calls the classes."""

    image: str
    label: str
    has_text_labels: bool
    class_names: tuple[str, ...] | None


@dataclass(frozen=True)
class _Shards:
    """The files of a split, and their columns, which are the same in all of them."""

    paths: list[Path]
    columns: _Columns

    @cached_property
    def stored_labels(self) -> list[Any]:
        """Each file's label column, a pyarrow ChunkedArray without nulls."""
        import pyarrow.parquet as pq

        columns = []
        for path in self.paths:
            with _reading(path):
                file = pq.ParquetFile(path, page_checksum_verification=True)
                column = file.read(columns=[self.columns.label]).column(self.columns.label)
            if column.null_count:
                row = column.is_null().to_pylist().index(True)
                raise UserError(f"{path}: row {row} has no label; remove the row or give it one")
            columns.append(column)
        return columns

    def labels(self, names: tuple[str, ...] | None) -> Labels:
        """All class numbers, in stored order; strings become positions in `names`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        parts = []
        for path, column in zip(self.paths, self.stored_labels, strict=True):
            if self.columns.has_text_labels:
                text = pa.large_string()
                column = pc.index_in(column.cast(text), value_set=pa.array(names, text))
            classes = MAX_CLASSES if names is None else len(names)
            parts.append(check_labels(column.to_numpy(), classes=classes, where=str(path)))
        return np.concatenate(parts)

    @cached_property
    def starts(self) -> list[int]:
        """The first row of each file, counted over the split."""
        return list(accumulate((len(column) for column in self.stored_labels[:-1]), initial=0))

    def where(self, row: int) -> str:
        """A row of the split, as people find it: file and row."""
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"{self.paths[shard]}: row {row - self.starts[shard]}"


def _open(paths: list[Path], image_column: str | None, label_column: str | None) -> _Shards:
    import pyarrow.parquet as pq

    columns = []
    for path in paths:
        with _reading(path):
            schema = pq.read_schema(path)
        columns.append(_find_columns(schema, path, image_column, label_column))
        if columns[-1] != columns[0]:
            raise UserError(
                f"{path}: its image and label columns differ from those of {paths[0].name} in "
                "name, type or class names; fetch both again, of one version"
            )
    return _Shards(paths, columns[0])


def _find_columns(
    schema: Any, path: Path, image_column: str | None, label_column: str | None
) -> _Columns:
    import pyarrow as pa

    class_names = _named_classes(schema)
    images = [field.name for field in schema if _is_image(field.type)]
    whole = [field.name for field in schema if pa.types.is_integer(field.type)]
    text = [field.name for field in schema if _is_string(field.type)]
    named = [name for name in whole if name in class_names]
    image = _choose("image", image_column, images, images, schema, path)
    # A column with class names is a better guess than an integer, and that is one than a string.
    label = _choose("label", label_column, whole + text, named or whole or text, schema, path)
    return _Columns(image, label, label in text, class_names.get(label))


def _choose(
    kind: str,
    wanted: str | None,
    allowed: Sequence[str],
    guesses: Sequence[str],
    schema: Any,
    path: Path,
) -> str:
    key = f"benchmark.{kind}_column"
    if wanted is not None:
        if allowed.count(wanted) != 1:
            raise UserError(
                f"{path}: {key} = {printable(wanted)} is no {kind} column; {_its_columns(schema)}; "
                f"allowed: {listed(allowed)}"
            )
        return wanted
    if not guesses:
        expected = {
            "image": "struct<bytes: binary, path: string>",
            "label": "integer (or string)",
        }[kind]
        raise UserError(
            f"{path}: no {kind} column, of type {expected}; {_its_columns(schema)}; give a data "
            "set in Hugging Face's layout"
        )
    if len(guesses) > 1:
        raise UserError(
            f"{path}: {len(guesses)} columns could hold the {kind}s ({listed(guesses)}); choose "
            f"one by {key}"
        )
    return guesses[0]


def _its_columns(schema: Any) -> str:
    return "its columns are " + listed([f"{field.name} ({field.type})" for field in schema])


def _is_image(type_: Any) -> bool:
    import pyarrow as pa

    if not pa.types.is_struct(type_) or type_.get_field_index("bytes") < 0:
        return False
    content = type_.field("bytes").type
    return bool(pa.types.is_binary(content) or pa.types.is_large_binary(content))


def _is_string(type_: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _named_classes(schema: Any) -> dict[str, tuple[str, ...]]:
    """Class names by column, of Hugging Face's ClassLabel features. They may also be missing."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = metadata["info"]["features"].items()
        return {
            column: tuple(str(name) for name in feature["names"])
            for column, feature in features
            if isinstance(feature, dict)
            and feature.get("_type") == "ClassLabel"
            and isinstance(feature.get("names"), list)
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _class_names(train: _Shards, test: _Shards) -> tuple[str, ...] | None:
    """Names by class number that both splits agree on; None if labels are bare numbers."""
    if train.columns.has_text_labels != test.columns.has_text_labels:
        raise UserError(
            f"{test.paths[0]}: one of this file and {train.paths[0].name} has strings as labels, "
            "the other integers; make them equal"
        )
    if train.columns.has_text_labels:
        columns = train.stored_labels + test.stored_labels
        return tuple(sorted({name for column in columns for name in column.unique().to_pylist()}))
    if train.columns.class_names != test.columns.class_names:
        raise UserError(
            f"{test.paths[0]}: its class names differ from those of {train.paths[0].name}; fetch "
            "both splits again, of one version"
        )
    return train.columns.class_names


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Pyarrow's errors about a file, in one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        why = printable(str(error), limit=160)
        raise UserError(f"{path}: not a readable Parquet file ({why}); fetch it again") from None


class _EncodedImages:
    """The images of a split, as the files hold them."""

    def __init__(
        self, shards: _Shards, wanted: Rows, folder: Path, size: tuple[int, int] | None
    ) -> None:
        self._shards = shards
        self._wanted = wanted
        self._folder = folder
        self._size = size

    @cached_property
    def mode(self) -> Mode:
        """`L` if every image is grey, else `RGB`.

        Unwanted images count too: another task in the stream must not change those there are.
        """
        every_row = np.arange(sum(len(column) for column in self._shards.stored_labels))
        return common_mode(self._read(every_row), where=self._shards.where)

    def decode(self, rows: Rows, mode: Mode) -> Images:
        """The images of the given rows, all of them wanted ones."""
        encoded = [self._encoded[position] for position in np.searchsorted(self._wanted, rows)]
        return decode(
            len(rows),
            read=encoded.__getitem__,
            mode=mode,
            size=self._size,
            where=lambda position: self._shards.where(int(rows[position])),
        )

    @cached_property
    def _encoded(self) -> list[bytes]:
        return list(self._read(self._wanted))

    def _read(self, rows: Rows) -> Iterator[bytes]:
        """The encoded images of ascending rows. Row groups without such rows are not even read."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        column = self._shards.columns.image
        for path, start in zip(self._shards.paths, self._shards.starts, strict=True):
            with _reading(path):
                file = pq.ParquetFile(path, page_checksum_verification=True)
                for group in range(file.num_row_groups):
                    stop = start + file.metadata.row_group(group).num_rows
                    groups = [group] if len(_between(rows, start, stop)) else []
                    for batch in file.iter_batches(_BATCH, row_groups=groups, columns=[column]):
                        here = _between(rows, start, start + len(batch))
                        images = batch.column(column).take(here - start)
                        contents = pc.struct_field(images, "bytes")
                        for row, image, content in zip(here, images, contents, strict=True):
                            yield content.as_py() or self._beside(int(row), image.as_py())
                        start += len(batch)
                    start = stop

    def _beside(self, row: int, image: dict[str, Any] | None) -> bytes:
        """The image file that a row names instead of holding its bytes."""
        path = (image or {}).get("path")
        where = self._shards.where(row)
        if not isinstance(path, str) or not path:
            raise UserError(f"{where} has no image, neither bytes nor path; remove the row")
        if PurePath(path).is_absolute() or ".." in PurePath(path).parts:
            raise UserError(
                f"{where} names the image {printable(path)}, outside of {self._folder}; write its "
                "path relative to this folder"
            )
        try:
            return (self._folder / path).read_bytes()
        except (OSError, ValueError) as error:
            why = printable(str(error), limit=160)
            raise UserError(
                f"{where} names an image that cannot be read ({why}); put it there"
            ) from None


def _between(rows: Rows, first: int, stop: int) -> Rows:
    low, high = np.searchsorted(rows, [first, stop])
    return rows[low:high]
