"""Where results last: members, named by digest, and runs, named by people.

A member is published payload first, pointer last: it exists when its `member.json` does, and that
file is created whole, once. Whoever creates it first has published for everyone.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import safetensors.numpy
from pydantic import BaseModel, ValidationError

from zoo_ray.errors import UserError
from zoo_ray.members.member import Member
from zoo_ray.members.spec import MemberSpec
from zoo_ray.task import PARTS, Predictions

FORMAT_VERSION: Literal[1] = 1
MAX_NAME_LENGTH = 100

_PREDICTIONS = pa.schema(
    [("task", pa.uint32()), ("part", pa.string()), ("probabilities", pa.list_(pa.float32()))]
)


class StoredPredictions(NamedTuple):
    """A member's predictions as the store holds them.

    Attributes:
        predictions: on each of the member's tasks, in the order of its spec.
        sha256: checksum of the file that holds them.
        call: the command that published the member.
        hardware: what it was fitted on.
    """

    predictions: list[Predictions]
    sha256: str
    call: str
    hardware: str


class TaskRecord(BaseModel):
    """A task, as a run's record names it."""

    name: str
    classes: list[str]
    digest: str


class RunRecord(BaseModel):
    """A run's `run.json`: what was asked for, resolved, and with which versions.

    Attributes:
        config: the configuration as it was given, defaults included.
        recipe: the recipe resolved.
        zoo: the zoo's rules.
        tasks: the stream.
        versions: of Python and the packages that ran.
    """

    format_version: Literal[1] = FORMAT_VERSION
    config: dict[str, Any]
    recipe: dict[str, Any]
    zoo: dict[str, Any]
    tasks: list[TaskRecord]
    versions: dict[str, str]


class CorruptMember(Exception):
    """A stored member is not what its pointer says; the message names the file."""


class Store:
    """Members and runs under one address.

    Args:
        address: a local folder. It is created when something is first written.

    Raises:
        UserError: there is no such kind of store.
    """

    def __init__(self, address: str) -> None:
        if re.match(r"^[A-Za-z][A-Za-z0-9+.-]*://", address):
            raise UserError(f"store = {address!r}: only local folders are supported so far")
        if "\0" in address:
            raise UserError(f"store = {address!r}: a path holds no null characters")
        # Workers run in other folders: the address they are given must not depend on the folder.
        try:
            self.address = str(Path(address).expanduser().absolute())
            self.address.encode()
        except (RuntimeError, UnicodeEncodeError) as error:
            raise UserError(f"store = {address!r}: not a path ({error})") from None
        self._files = pa.fs.SubTreeFileSystem(self.address, pa.fs.LocalFileSystem())

    # ---- members

    def has_member(self, digest: str) -> bool:
        """Whether a member is finished."""
        return self._exists(f"members/{digest}/member.json")

    def publish_member(self, spec: MemberSpec, member: Member, *, call: str) -> None:
        """Make a member exist, unless it does already: then the published one stays.

        Args:
            spec: what the member is.
            member: the result of its fit.
            call: names the command that publishes it.

        Raises:
            UserError: the store cannot be written.
        """
        folder = f"members/{spec.digest}"
        weights = safetensors.numpy.save(member.weights)
        predictions = _predictions_to_bytes(member.predictions)
        pointer = {
            "format_version": FORMAT_VERSION,
            "spec": spec.to_dict(),
            "weights": self._write_payload(folder, "weights", weights),
            "predictions": self._write_payload(folder, "predictions", predictions),
            "epoch_losses": member.epoch_losses,
            "fit_s": round(member.fit_s, 3),
            "hardware": member.hardware,
            "call": call,
        }
        self._create(f"{folder}/member.json", _to_json(pointer))

    def read_predictions(self, digest: str) -> StoredPredictions | None:
        """A member's predictions, or None if it is not finished.

        Raises:
            CorruptMember: a file is missing or not what it was when it was published.
        """
        found = self._read_payload(digest, "predictions")
        if found is None:
            return None
        payload, pointer = found
        entry = pointer["predictions"]
        try:
            predictions = _predictions_from_bytes(payload)
        except (pa.ArrowException, KeyError, ValueError, IndexError, ZeroDivisionError) as error:
            raise CorruptMember(f"{self._member_path(digest)}/{entry['name']}: {error}") from None
        return StoredPredictions(
            predictions=predictions,
            sha256=entry["sha256"],
            call=str(pointer.get("call")),
            hardware=json.dumps(pointer.get("hardware"), sort_keys=True),
        )

    def read_weights(self, digest: str) -> dict[str, Any] | None:
        """A member's parameters and buffers as numpy arrays, or None if it is not finished.

        Raises:
            CorruptMember: as `read_predictions`.
        """
        found = self._read_payload(digest, "weights")
        return None if found is None else safetensors.numpy.load(found[0])

    def drop_member(self, digest: str) -> None:
        """Make a corrupt member missing, so that it can be published again."""
        path = f"members/{digest}/member.json"
        try:
            (Path(self.address) / path).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"store {self.address}: cannot remove {path} ({error.strerror}), which is corrupt; "
                "remove it, or give a store you may write to with --store"
            ) from None

    # ---- runs

    def read_run(self, name: str) -> "RunRecord | None":
        """A run's `run.json`, or None if there is no such run.

        Raises:
            UserError: the file is not a run's, or another version's.
        """
        path = f"runs/{check_name(name)}/run.json"
        document = self._read(path)
        if document is None:
            return None
        try:
            return RunRecord.model_validate_json(document)
        except ValidationError as error:
            raise UserError(
                f"{self.address}/{path}: not the record of a run that this zoo_ray can read "
                f"({error.errors()[0]['msg']}); remove it or use another --name"
            ) from None

    def create_run(self, name: str, record: "RunRecord") -> "RunRecord":
        """Write a run's `run.json` unless there is one; returns the one there is then."""
        path = f"runs/{check_name(name)}/run.json"
        self._create(path, _to_json(record.model_dump()))
        return self.read_run(name) or record

    def write_run(self, name: str, record: "RunRecord") -> None:
        """Write a run's `run.json`, over the one there may be."""
        self._replace(f"runs/{check_name(name)}/run.json", _to_json(record.model_dump()))

    def write_table(self, name: str, file: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Write a table of a run as Parquet, a column per key."""
        sink = io.BytesIO()
        pa.parquet.write_table(pa.table(dict(columns)), sink)
        self._replace(f"runs/{check_name(name)}/{file}", sink.getvalue())

    def write_file(self, name: str, file: str, payload: bytes) -> str:
        """Write a file into a run's folder (as a report); returns its full path."""
        path = f"runs/{check_name(name)}/{file}"
        self._replace(path, payload)
        return f"{self.address}/{path}"

    # ---- files

    def _member_path(self, digest: str) -> str:
        return f"{self.address}/members/{digest}"

    def _write_payload(self, folder: str, kind: str, payload: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(payload).hexdigest()
        name = _payload_name(kind, sha256)
        self._replace(f"{folder}/{name}", payload)
        return {"name": name, "size": len(payload), "sha256": sha256}

    def _read_payload(self, digest: str, kind: str) -> tuple[bytes, dict[str, Any]] | None:
        pointer_path = f"members/{digest}/member.json"
        document = self._read(pointer_path)
        if document is None:
            return None
        try:
            pointer = json.loads(document)
            entry = pointer[kind]
            sha256 = str(entry["sha256"])
            name = _payload_name(kind, sha256)
            if entry["name"] != name:
                raise ValueError
            if (version := pointer["format_version"]) != FORMAT_VERSION:
                # Not corrupt: it may be the work of a newer zoo_ray, and is not ours to replace.
                raise UserError(
                    f"{self.address}/{pointer_path}: format_version {version}, where this zoo_ray "
                    f"reads {FORMAT_VERSION}; use another --store"
                )
            spec_digest = MemberSpec.from_dict(pointer["spec"]).digest
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CorruptMember(f"{self.address}/{pointer_path}: not a member's pointer") from None
        if spec_digest != digest:
            raise CorruptMember(f"{self.address}/{pointer_path}: holds another member's spec")
        payload = self._read(f"members/{digest}/{name}")
        if payload is None:
            raise CorruptMember(f"{self._member_path(digest)}/{name}: missing")
        if hashlib.sha256(payload).hexdigest() != sha256:
            raise CorruptMember(f"{self._member_path(digest)}/{name}: wrong checksum")
        return payload, pointer

    def _exists(self, path: str) -> bool:
        return bool(self._files.get_file_info(path).type == pa.fs.FileType.File)

    def _read(self, path: str) -> bytes | None:
        try:
            with self._files.open_input_file(path) as file:
                return bytes(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"store {self.address}: cannot read {path} ({error})") from None

    def _replace(self, path: str, payload: bytes) -> None:
        """Write a file whole: a reader sees the old one or the new one."""
        self._write_aside(path, payload, publish=os.replace)

    def _create(self, path: str, payload: bytes) -> None:
        """Write a file whole unless it exists."""

        def link(aside: str, target: str) -> None:
            try:
                os.link(aside, target)  # unlike a rename, refuses to replace
            except FileExistsError:
                pass
            finally:
                os.unlink(aside)

        self._write_aside(path, payload, publish=link)

    def _write_aside(self, path: str, payload: bytes, *, publish: Any) -> None:
        target = os.path.join(self.address, path)
        aside = os.path.join(os.path.dirname(target), f".{uuid.uuid4().hex}.part")
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(aside, "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            publish(aside, target)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise UserError(
                f"store {self.address}: cannot write {path} ({error.strerror or error}); make room "
                "or give a folder you may write to with --store"
            ) from None


def check_name(name: str) -> str:
    """A run's name if it may be one: it becomes the name of a folder, whatever the store.

    Raises:
        UserError: it is empty, too long, or holds a slash or control characters.
    """
    fits = name.isprintable() and 0 < len(name.encode()) <= MAX_NAME_LENGTH
    if not fits or any(char in name for char in "/\\") or name in {".", ".."}:
        raise UserError(
            f"--name {name!r}: a name has 1 to {MAX_NAME_LENGTH} printable characters, "
            "without / or \\; try letters, digits and dashes"
        )
    return name


def _payload_name(kind: str, sha256: str) -> str:
    return f"{kind}-{sha256[:16]}.{_SUFFIXES[kind]}"


_SUFFIXES = {"weights": "safetensors", "predictions": "arrow"}


def _to_json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, allow_nan=False) + "\n").encode()


def _predictions_to_bytes(predictions: Sequence[Predictions]) -> bytes:
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


def _predictions_from_bytes(payload: bytes) -> list[Predictions]:
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
