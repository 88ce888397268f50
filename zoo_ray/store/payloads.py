"""The files of a store that hold arrays, as bytes."""

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import safetensors
import safetensors.numpy

from zoo_ray.members.member import Checkpoint
from zoo_ray.task import PARTS, Predictions

FORMAT_VERSION: Literal[1] = 1

_PREDICTIONS = pa.schema(
    [("task", pa.uint32()), ("part", pa.string()), ("probabilities", pa.list_(pa.float32()))]
)
_CHECKPOINT = re.compile(r"(\d{12,})-([0-9a-f]{64})\.safetensors")


class CorruptPayload(Exception):
    """Bytes are not what they should be."""


def to_json(record: Mapping[str, Any]) -> bytes:
    """A record as people can read it, too."""
    return (json.dumps(record, indent=2, allow_nan=False) + "\n").encode()


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the checksum of all else that it holds."""
    return {**record, "checksum": _checksum(record)}


def seal_holds(record: object) -> bool:
    """Whether what was read from JSON is a sealed record, and is what it was."""
    if not isinstance(record, dict):
        return False
    rest = {key: value for key, value in record.items() if key != "checksum"}
    return bool(record.get("checksum") == _checksum(rest))


def _checksum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def table_to_bytes(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """A Parquet file with a column per key."""
    sink = io.BytesIO()
    pa.parquet.write_table(pa.table(dict(columns)), sink, write_page_checksum=True)
    return sink.getvalue()


def table_from_bytes(payload: bytes) -> dict[str, list[Any]]:
    """A Parquet file's columns.

    Raises:
        CorruptPayload: it is none.
    """
    try:
        # Not read_table, whatever it is told: it has threads, and a process that ends while they
        # let go of what they have read may abort.
        file = pa.parquet.ParquetFile(pa.BufferReader(payload), page_checksum_verification=True)
        columns: dict[str, list[Any]] = file.read(use_threads=False).to_pydict()
    except (pa.ArrowException, OSError, ValueError):
        raise CorruptPayload("not a table") from None
    return columns


def checkpoint_to_bytes(checkpoint: Checkpoint, *, digest: str) -> bytes:
    """A safetensors file of the arrays; what else there is, as JSON in its metadata."""
    rest = {
        "format_version": FORMAT_VERSION,
        "spec": digest,
        "step": checkpoint.step,
        # JSON gives Python's floats back exactly, also those that are not finite.
        "epoch_losses": checkpoint.epoch_losses,
        "hardware": checkpoint.hardware,
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in checkpoint.arrays.items()}
    for name, array in checkpoint.arrays.items():
        arrays[name] = arrays[name].reshape(array.shape)  # numpy makes one number a row of one
    return safetensors.numpy.save(arrays, metadata={"checkpoint": json.dumps(rest)})


def checkpoint_from_bytes(payload: bytes, *, digest: str) -> Checkpoint:
    """What `checkpoint_to_bytes` wrote.

    Raises:
        CorruptPayload: it is not, or of another spec or version.
    """
    try:
        size = int.from_bytes(payload[:8], "little")
        rest = json.loads(json.loads(payload[8 : 8 + size])["__metadata__"]["checkpoint"])
        if (rest["format_version"], rest["spec"]) != (FORMAT_VERSION, digest):
            raise CorruptPayload("of another version or spec")
        return Checkpoint(
            step=int(rest["step"]),
            epoch_losses=[float(loss) for loss in rest["epoch_losses"]],
            arrays=safetensors.numpy.load(payload),
            hardware=dict(rest["hardware"]),
        )
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptPayload(f"no checkpoint ({type(error).__name__})") from None


def checkpoint_name(payload: bytes, *, step: int) -> str:
    """The name of a checkpoint's file, which tells its step and its checksum."""
    return f"{step:012d}-{hashlib.sha256(payload).hexdigest()}.safetensors"


def parse_checkpoint_name(name: str) -> tuple[int, str] | None:
    """Step and checksum of a checkpoint's file; None: it is none."""
    found = _CHECKPOINT.fullmatch(name)
    return (int(found[1]), found[2]) if found else None


def predictions_to_bytes(predictions: Sequence[Predictions]) -> bytes:
    """An Arrow file with one record batch for each task and part, in order."""
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, _PREDICTIONS) as writer:
        for task, parts in enumerate(predictions):
            for part in PARTS:
                rows, classes = parts[part].shape
                offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * classes)
                values = pa.array(np.ascontiguousarray(parts[part], dtype=np.float32).reshape(-1))
                columns = [
                    pa.array(np.full(rows, task, dtype=np.uint32)),
                    pa.array([part] * rows, pa.string()),
                    pa.ListArray.from_arrays(offsets, values),
                ]
                writer.write_batch(pa.record_batch(columns, schema=_PREDICTIONS))
    return sink.getvalue()


def predictions_from_bytes(payload: bytes) -> list[Predictions]:
    """What `predictions_to_bytes` wrote.

    Raises:
        CorruptPayload: it is not.
    """
    try:
        return _read_batches(payload)
    except (pa.ArrowException, KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise CorruptPayload(str(error)) from None


def _read_batches(payload: bytes) -> list[Predictions]:
    reader = pa.ipc.open_file(payload)
    if reader.num_record_batches % len(PARTS):
        raise ValueError("a part is missing")
    predictions: list[Predictions] = []
    for first in range(0, reader.num_record_batches, len(PARTS)):
        parts: Predictions = {}
        for number, part in enumerate(PARTS, start=first):
            column = reader.get_batch(number).column("probabilities")
            values = column.flatten().to_numpy(zero_copy_only=True)
            # An empty part does not tell the number of classes; the training part, which comes
            # first and is never empty, does.
            classes = parts["train"].shape[1] if parts else len(values) // len(column)
            parts[part] = values.reshape(len(column), classes)
        predictions.append(parts)
    return predictions
