"""Where results last: members, named by digest, and runs, named by people.

A member is published payload first, pointer last: it exists when its `member.json` does, and that
file is created whole, once. Whoever creates it first has published for everyone.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import safetensors.numpy
from pydantic import ValidationError

from zoo_ray.address import parse_address
from zoo_ray.diary import FitTime
from zoo_ray.errors import UserError
from zoo_ray.members.member import Checkpoint, Member
from zoo_ray.members.spec import MemberSpec, digest_of
from zoo_ray.store.files import FOLDERS, KINDS
from zoo_ray.store.opening import open_files
from zoo_ray.store.payloads import (
    FORMAT_VERSION,
    CorruptPayload,
    checkpoint_from_bytes,
    checkpoint_name,
    checkpoint_to_bytes,
    parse_checkpoint_name,
    predictions_from_bytes,
    predictions_to_bytes,
    seal_holds,
    sealed,
    table_from_bytes,
    table_to_bytes,
    to_json,
)
from zoo_ray.store.records import (
    MemberEntry,
    NamedFolder,
    RunRecord,
    RunSummary,
    SearchRecord,
    check_name,
)
from zoo_ray.store.retry import PATIENCE_S, StoreFailed
from zoo_ray.store.timeline import timeline_from_bytes, timeline_to_bytes
from zoo_ray.task import Predictions

EPISODES, RESULTS, CONFUSION = "episodes.parquet", "results.parquet", "confusion.parquet"
OWN_CODE = "code"
"""Of a run's folder: files of the user's own, as they were when the run was begun."""
WANTED = "wanted.json"
TRIALS = "trials.parquet"
TIMELINE = "timeline.parquet"

R = TypeVar("R", RunRecord, SearchRecord)
T = TypeVar("T")

log = logging.getLogger("zoo_ray")


class StoredPredictions(NamedTuple):
    """A member's predictions as the store holds them.

    Attributes:
        predictions: on each of the member's tasks, in the order of its spec.
        sha256: checksum of the file that holds them.
        call: the command that published the member.
        hardware: what it was fitted on.
        pointer: the member's pointer as it was read (see `Store.drop_member`).
    """

    predictions: list[Predictions]
    sha256: str
    call: str
    hardware: str
    pointer: bytes


class CorruptMember(Exception):
    """A stored member is not what its pointer says; the message names the file.

    Attributes:
        pointer: the member's pointer as it was read (see `Store.drop_member`).
    """

    def __init__(self, message: str, *, pointer: bytes) -> None:
        super().__init__(message)
        self.pointer = pointer


class Store:
    """Members and runs under one address.

    Any operation raises a `UserError` if the store cannot be read or written, after having tried
    again for a while where that may help.

    Args:
        address: a local folder, created when something is first written, or a prefix in a bucket
            that exists, as `s3://bucket/prefix` (see `zoo_ray.address`).
        patience_s: how long each operation is tried again while the store does not answer.

    Raises:
        UserError: it is no address.
    """

    def __init__(self, address: str, *, patience_s: float = PATIENCE_S) -> None:
        parsed = parse_address(address)
        self.address = parsed.text
        self.shown = parsed.shown
        """The address for people; a path in the store can be appended."""
        self.files = open_files(parsed, patience_s=patience_s)

    def exists(self) -> bool:
        """Whether anything was ever written."""
        return any(next(self.files.list(folder), None) for folder in FOLDERS)

    # ---- members

    def has_member(self, digest: str) -> bool:
        """Whether a member is finished."""
        return self.files.read(_pointer_path(digest)) is not None

    def members(self) -> Iterator[MemberEntry]:
        """All finished members, in no order."""
        sizes: dict[str, int] = {}
        finished = {}
        for entry in self.files.list("members"):
            digest, _, name = entry.path.removeprefix("members/").partition("/")
            sizes[digest] = sizes.get(digest, 0) + entry.size_bytes
            if name == "member.json":
                finished[digest] = entry.modified
        return (MemberEntry(digest, sizes[digest], when) for digest, when in finished.items())

    def publish_member(self, spec: MemberSpec, member: Member, *, call: str) -> None:
        """Make a member exist, unless it does already: then the published one stays.

        Its checkpoints go.

        Args:
            spec: what the member is.
            member: the result of its fit.
            call: names the command that publishes it.
        """
        folder = f"members/{spec.digest}"
        weights = safetensors.numpy.save(member.weights)
        predictions = predictions_to_bytes(member.predictions)
        pointer = {
            "format_version": FORMAT_VERSION,
            "spec": spec.to_dict(),
            "weights": self._write_payload(folder, "weights", weights),
            "predictions": self._write_payload(folder, "predictions", predictions),
            "epoch_losses": member.epoch_losses,
            "first_step": member.first_step,
            "fit_s": round(member.fit_s, 3),
            "hardware": member.hardware,
            "call": call,
        }
        self.files.create(_pointer_path(spec.digest), to_json(sealed(pointer)))
        self.drop_checkpoints(spec.digest)

    def read_predictions(self, digest: str) -> StoredPredictions | None:
        """A member's predictions, or None if it is not finished.

        Raises:
            CorruptMember: a file is missing or not what it was when it was published.
        """
        found = self._read_payload(digest, "predictions")
        if found is None:
            return None
        payload, pointer, document = found
        entry = pointer["predictions"]
        try:
            predictions = predictions_from_bytes(payload)
        except CorruptPayload as error:
            path = f"{self.shown}/members/{digest}/{entry['name']}"
            raise CorruptMember(f"{path}: {error}", pointer=document) from None
        return StoredPredictions(
            predictions=predictions,
            sha256=entry["sha256"],
            call=str(pointer.get("call")),
            hardware=json.dumps(pointer.get("hardware"), sort_keys=True),
            pointer=document,
        )

    def read_weights(self, digest: str) -> dict[str, Any] | None:
        """A member's parameters and buffers as numpy arrays, or None if it is not finished.

        Raises:
            CorruptMember: as `read_predictions`.
        """
        found = self._read_payload(digest, "weights")
        return None if found is None else safetensors.numpy.load(found[0])

    def read_network(self, digest: str) -> tuple[MemberSpec, dict[str, Any]] | None:
        """A member's spec and weights, or None if it is not finished.

        Raises:
            CorruptMember: as `read_predictions`.
            UserError: it is of a newer zoo_ray.
        """
        found = self._read_payload(digest, "weights")
        if found is None:
            return None
        payload, pointer, _ = found
        try:
            spec = MemberSpec.from_dict(pointer["spec"])
        except TypeError:
            raise UserError(
                f"{self.shown}/{_pointer_path(digest)}: its recipe has keys that this zoo_ray does "
                "not know; ask it with the one that fitted it"
            ) from None
        return spec, safetensors.numpy.load(payload)

    def drop_member(self, digest: str, *, seen: bytes | None = None) -> None:
        """Make a corrupt member missing, so that it can be published again.

        Args:
            digest: of the member.
            seen: its pointer as it was read. If it has changed since, somebody has dropped and
                published the member meanwhile, and it stays. None: whatever the pointer is.
        """
        if seen is None:
            self.files.delete(_pointer_path(digest))
        else:
            self.files.delete_if(_pointer_path(digest), seen)

    # ---- checkpoints

    def write_checkpoint(self, digest: str, checkpoint: Checkpoint) -> None:
        """Keep a fit's checkpoint, in place of those of fewer steps."""
        payload = checkpoint_to_bytes(checkpoint, digest=digest)
        name = checkpoint_name(payload, step=checkpoint.step)
        self.files.replace(f"progress/{digest}/{name}", payload)
        for step, path in self._checkpoints(digest):
            if step < checkpoint.step:
                self.files.delete(path)

    def read_checkpoint(self, digest: str) -> Checkpoint | None:
        """The checkpoint of the most steps, or None; those that are corrupt are dropped."""
        for _, path in sorted(self._checkpoints(digest), reverse=True):
            payload = self.files.read(path)
            if payload is None:  # dropped meanwhile
                continue
            try:
                return check_checkpoint(path, payload)
            except CorruptPayload as error:
                log.warning("store: %s/%s: %s; it is ignored", self.shown, path, error)
                self.files.delete(path)
        return None

    def drop_checkpoints(self, digest: str) -> None:
        """Remove all of a fit's checkpoints."""
        for entry in self.files.list(f"progress/{digest}"):
            self.files.delete(entry.path)

    def _checkpoints(self, digest: str) -> list[tuple[int, str]]:
        found = []
        for entry in self.files.list(f"progress/{digest}"):
            parsed = parse_checkpoint_name(entry.path.rpartition("/")[2])
            if parsed is not None:
                found.append((parsed[0], entry.path))
        return found

    # ---- runs

    def runs(self) -> list[RunSummary]:
        """All runs by name, those that cannot be read with what is wrong."""
        return [self._summary(folder) for folder in self.named("runs")]

    def named(self, kind: str) -> list[NamedFolder]:
        """The folders of a kind (see `KINDS`) by name, without reading any file."""
        found: dict[str, NamedFolder] = {}
        for entry in self.files.list(kind):
            _, name, *below = entry.path.split("/")
            if below:
                seen = found.get(name, NamedFolder(kind, name, 0, entry.modified, KINDS[kind]))
                is_study = below == ["competition.json"]
                found[name] = seen._replace(
                    size_bytes=seen.size_bytes + entry.size_bytes,
                    modified=max(seen.modified, entry.modified),
                    what="competition study" if is_study else seen.what,
                )
        return [found[name] for name in sorted(found)]

    def _summary(self, folder: NamedFolder) -> RunSummary:
        name = folder.name
        summary = RunSummary(name, size_bytes=folder.size_bytes, modified=folder.modified)
        try:
            record = self.read_run(name)
            table = self.read_episodes(name)
        except StoreFailed:
            raise
        except UserError as error:
            return summary._replace(problem=str(error))
        if record is None:
            return summary._replace(problem="run.json is missing")
        return summary._replace(
            record=record,
            episodes=max(table["episode"], default=0) if table else 0,
            members=len(table["episode"]) if table else 0,
        )

    def read_run(self, name: str) -> RunRecord | None:
        """A run's `run.json`, or None if there is no such run.

        Raises:
            UserError: the file is not a run's, or another version's.
        """
        path = f"{run_folder(name)}/run.json"
        document = self.files.read(path)
        return None if document is None else self._parse(RunRecord, path, document)

    def create_run(self, name: str, record: RunRecord) -> RunRecord:
        """Write a run's `run.json` unless there is one; returns the one there is then."""
        return self._update(f"{run_folder(name)}/run.json", record, lambda _: False)

    def lengthen_run(self, name: str, record: RunRecord) -> RunRecord:
        """Write a run's `run.json` unless there is one with as many tasks; returns what is there
        then. A run's record never gets shorter."""
        path = f"{run_folder(name)}/run.json"
        return self._update(path, record, lambda old: len(old.tasks) < len(record.tasks))

    def _update(self, path: str, record: R, is_older: Callable[[R], bool]) -> R:
        """Write a record unless there is one that is not older; returns the one there is then."""
        kind = type(record)

        def change(document: bytes | None) -> bytes | None:
            if document is None or is_older(self._parse(kind, path, document)):
                return to_json(record.model_dump())
            return None

        document = self.files.update(path, change)
        return record if document is None else self._parse(kind, path, document)

    def _parse(self, kind: type[R], path: str, document: bytes) -> R:
        try:
            return kind.model_validate_json(document)
        except ValidationError as error:
            raise UserError(
                f"{self.shown}/{path}: not a record that this zoo_ray can read "
                f"({error.errors()[0]['msg']}); remove it or use another --name"
            ) from None

    def write_results(
        self,
        name: str,
        *,
        episodes: Mapping[str, Sequence[Any]],
        results: Mapping[str, Sequence[Any]],
        confusion: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Write a run's tables, each unless the one there covers more episodes.

        Args:
            name: of the run.
            episodes: a column per key; `episode` (from 1), `digest` and so on, a row per member.
            results: the same, a row per episode and task.
            confusion: the same, a row per task, class, and class that it is taken for.
        """
        # What names the members first: where another is, it must be (see `read_episodes`).
        tables = {EPISODES: episodes, RESULTS: results, CONFUSION: confusion}
        for file, columns in tables.items():
            if columns is not None:
                self._lengthen_table(f"{run_folder(name)}/{file}", columns)

    def _lengthen_table(self, path: str, columns: Mapping[str, Sequence[Any]]) -> None:
        table = table_to_bytes(columns)
        reach = max(columns["episode"], default=0)

        def change(document: bytes | None) -> bytes | None:
            if document is not None:
                try:
                    there = max(_run_table(path, document)["episode"], default=0)
                except CorruptPayload as error:
                    log.warning("store: %s/%s: %s; written anew", self.shown, path, error)
                    there = 0
                if there > reach:
                    return None
            return table

        self.files.update(path, change)

    def read_table(self, name: str, file: str) -> dict[str, list[Any]] | None:
        """A run's table by columns, or None if there is none.

        Raises:
            UserError: it cannot be read.
        """
        path = f"{run_folder(name)}/{file}"
        return self._read_as(partial(_run_table, path), path, advice=_REGROWN)

    def read_episodes(self, name: str) -> dict[str, list[Any]] | None:
        """A run's table of members, or None if the run has no tables yet.

        Raises:
            UserError: it cannot be read, or is missing where what is written after it is there.
        """
        found = self.read_table(name, EPISODES)
        if found is None and self._has_written(name):
            # Again, as the run may have written all of its tables since.
            found = self.read_table(name, EPISODES)
            if found is None:
                raise UserError(
                    f"{self.shown}/{run_folder(name)}/{EPISODES}: missing, though the run has been "
                    f"recorded; {_REGROWN}, or rm removes the run"
                )
        return found

    def _has_written(self, name: str) -> bool:
        """Whether there is something that a run writes after its table of members."""
        folder = run_folder(name)
        later = (f"{folder}/{RESULTS}", f"{folder}/{CONFUSION}", f"{folder}/report/")
        return any(entry.path.startswith(later) for entry in self.files.list(folder))

    def _read_as(self, parse: Callable[[bytes], T], path: str, *, advice: str) -> T | None:
        """What a file holds, or None if there is none; UserError if `parse` calls it corrupt."""
        document = self.files.read(path)
        if document is None:
            return None
        try:
            return parse(document)
        except CorruptPayload as error:
            raise UserError(f"{self.shown}/{path}: {error}; {advice}") from None

    # ---- searches

    def read_search(self, name: str) -> SearchRecord | None:
        """A search's `search.json`, or None if there is no such search.

        Raises:
            UserError: the file is not a search's, or another version's.
        """
        path = f"{search_folder(name)}/search.json"
        document = self.files.read(path)
        return None if document is None else self._parse(SearchRecord, path, document)

    def record_search(self, name: str, record: SearchRecord) -> SearchRecord:
        """Write a search's `search.json` unless there is one of as many samples; returns the one
        there is then."""
        path = f"{search_folder(name)}/search.json"
        return self._update(path, record, lambda old: old.samples < record.samples)

    def write_trials(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Write a search's table of trials, a row each; `digests` names its members."""
        self.files.replace(f"{search_folder(name)}/{TRIALS}", table_to_bytes(columns))

    def read_trials(self, name: str) -> dict[str, list[Any]] | None:
        """A search's table of trials, column by column; None: it is not written yet.

        Raises:
            UserError: it cannot be read.
        """
        path = f"{search_folder(name)}/{TRIALS}"
        return self._read_as(_trials_table, path, advice="remove it, or mend it")

    def read_trial_digests(self, name: str) -> set[str]:
        """Members that a search's table of trials names.

        Raises:
            UserError: it cannot be read.
        """
        columns = self.read_trials(name) or {"digests": []}
        return {digest for digests in columns["digests"] for digest in digests}

    # ---- what runs and searches have in common; their folder is `run_folder`, `search_folder`
    # or `comparison_folder`

    def write_wanted(self, folder: str, digests: Sequence[str]) -> None:
        """Say which members work under way needs that its tables do not name yet."""
        record = {"format_version": FORMAT_VERSION, "digests": list(digests)}
        self.files.replace(f"{folder}/{WANTED}", to_json(record))

    def clear_wanted(self, folder: str) -> None:
        """The work is not under way any more."""
        self.files.delete(f"{folder}/{WANTED}")

    def read_wanted(self, folder: str) -> list[str]:
        """What `write_wanted` said last, if it holds still.

        Raises:
            UserError: it cannot be read.
        """
        advice = "remove it if the work is not under way"
        return self._read_as(_wanted, f"{folder}/{WANTED}", advice=advice) or []

    def write_timeline(self, folder: str, fits: Sequence[FitTime]) -> None:
        """Write when a session's members were fitted, in place of what was written of it before;
        other sessions' stay."""
        if not fits:
            return
        path = f"{folder}/{TIMELINE}"

        def change(document: bytes | None) -> bytes:
            before: list[FitTime] = []
            if document is not None:
                try:
                    before = timeline_from_bytes(document)
                except CorruptPayload as error:
                    log.warning("store: %s/%s: %s; written anew", self.shown, path, error)
            others = [fit for fit in before if fit.session != fits[0].session]
            return timeline_to_bytes([*others, *fits])

        self.files.update(path, change)

    def read_timeline(self, folder: str) -> list[FitTime]:
        """When members were fitted, session by session; empty if nothing was written of it.

        Raises:
            UserError: it cannot be read.
        """
        path = f"{folder}/{TIMELINE}"
        advice = "remove it: nothing else needs it"
        return self._read_as(timeline_from_bytes, path, advice=advice) or []

    def write_file(self, folder: str, file: str, payload: bytes) -> str:
        """Write a file (as a report); returns its full path."""
        path = f"{folder}/{file}"
        self.files.replace(path, payload)
        return f"{self.shown}/{path}"

    def remove(self, folder: str) -> int:
        """Remove all that a run, search or comparison recorded, but no members.

        Args:
            folder: its folder.

        Returns:
            How many files there were.
        """
        paths = [entry.path for entry in self.files.list(folder)]

        def turn(path: str) -> tuple[bool, bool]:
            # The record last: what is cut short can be seen, and done again. Before it what names
            # members, which is not to be missed beside the other tables.
            file = path.rpartition("/")[2]
            return file in _RECORDS, file == EPISODES

        for path in sorted(paths, key=turn):
            self.files.delete(path)
        return len(paths)

    # ---- payloads

    def _write_payload(self, folder: str, kind: str, payload: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(payload).hexdigest()
        name = _payload_name(kind, sha256)
        self.files.replace(f"{folder}/{name}", payload)
        return {"name": name, "size": len(payload), "sha256": sha256}

    def _read_payload(self, digest: str, kind: str) -> tuple[bytes, dict[str, Any], bytes] | None:
        """The payload, its member's pointer, and the pointer as it was read."""
        document = self.files.read(_pointer_path(digest))
        if document is None:
            return None
        pointer_path = f"{self.shown}/{_pointer_path(digest)}"
        try:
            pointer = json.loads(document)
            if not seal_holds(pointer):
                raise CorruptMember(f"{pointer_path}: wrong checksum", pointer=document)
            if (version := pointer["format_version"]) != FORMAT_VERSION:
                # Not corrupt: it may be the work of a newer zoo_ray, and is not ours to replace.
                raise UserError(
                    f"{pointer_path}: format_version {version}, where this zoo_ray "
                    f"reads {FORMAT_VERSION}; use another --store"
                )
            entry = pointer[kind]
            sha256 = str(entry["sha256"])
            name = _payload_name(kind, sha256)
            if entry["name"] != name:
                raise ValueError
            spec_digest = digest_of(pointer["spec"])
        except (ValueError, KeyError, TypeError, RecursionError):
            message = f"{pointer_path}: not a member's pointer"
            raise CorruptMember(message, pointer=document) from None
        if spec_digest != digest:
            message = f"{pointer_path}: holds another member's spec"
            raise CorruptMember(message, pointer=document)
        payload = self.files.read(f"members/{digest}/{name}")
        path = f"{self.shown}/members/{digest}/{name}"
        if payload is None:
            raise CorruptMember(f"{path}: missing", pointer=document)
        if hashlib.sha256(payload).hexdigest() != sha256:
            raise CorruptMember(f"{path}: wrong checksum", pointer=document)
        return payload, pointer, document


def run_folder(name: str) -> str:
    """Where a run's files are in the store.

    Raises:
        UserError: it is no name.
    """
    return f"runs/{check_name(name)}"


def search_folder(name: str) -> str:
    """Where a search's files are in the store.

    Raises:
        UserError: it is no name.
    """
    return f"searches/{check_name(name)}"


def comparison_folder(name: str) -> str:
    """Where a comparison's files are in the store; its zoos are runs.

    Raises:
        UserError: it is no name.
    """
    return f"comparisons/{check_name(name)}"


def check_checkpoint(path: str, payload: bytes) -> Checkpoint:
    """The checkpoint in a store's file.

    Raises:
        CorruptPayload: it is not what its path says.
    """
    _, digest, name = path.split("/")
    parsed = parse_checkpoint_name(name)
    if parsed is None:
        raise CorruptPayload("not the name of a checkpoint")
    if hashlib.sha256(payload).hexdigest() != parsed[1]:
        raise CorruptPayload("wrong checksum")
    return checkpoint_from_bytes(payload, digest=digest)


def _run_table(path: str, document: bytes) -> dict[str, list[Any]]:
    columns = table_from_bytes(document)
    if "episode" not in columns:
        raise CorruptPayload("not a table of a run")
    if path.endswith(f"/{EPISODES}") and "digest" not in columns:
        raise CorruptPayload("not a table of a run's members")
    return columns


def _trials_table(document: bytes) -> dict[str, list[Any]]:
    columns = table_from_bytes(document)
    if "digests" not in columns:
        raise CorruptPayload("not a search's table")
    return columns


def _wanted(document: bytes) -> list[str]:
    try:
        return [str(digest) for digest in json.loads(document)["digests"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CorruptPayload("not readable") from None


def _pointer_path(digest: str) -> str:
    return f"members/{digest}/member.json"


def _payload_name(kind: str, sha256: str) -> str:
    return f"{kind}-{sha256[:16]}.{_SUFFIXES[kind]}"


_REGROWN = "the command that grew the run writes it anew"
_RECORDS = {"run.json", "search.json", "comparison.json", "competition.json"}
_SUFFIXES = {"weights": "safetensors", "predictions": "arrow"}
