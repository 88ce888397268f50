"""Looking after a store: is everything what it says, and what is nobody's any more."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar

from zoo_ray.errors import UserError
from zoo_ray.store.files import KINDS, Entry
from zoo_ray.store.payloads import CorruptPayload
from zoo_ray.store.retry import StoreFailed, UnreadableFile
from zoo_ray.store.store import (
    CONFUSION,
    EPISODES,
    RESULTS,
    TRIALS,
    CorruptMember,
    Store,
    check_checkpoint,
    comparison_folder,
    run_folder,
    search_folder,
)

KEPT = timedelta(days=1)
"""What is younger may belong to work under way, and is never collected."""

_NO_TIMELINE = "without it a report lacks the time line alone"
_RECORDING_S = 2.0  # what a run may take from its table of members to the next
_THREADS = 8  # an object store answers slowly, but many at once

T = TypeVar("T")


class Problem(NamedTuple):
    """Something in a store that is not as it must be, by name, and what to do about it."""

    problem: str
    advice: str


class Verification(NamedTuple):
    """How many things `verify` looked at, and what is wrong."""

    members: int
    runs: int
    checkpoints: int
    problems: list[Problem]


class Garbage(NamedTuple):
    """Something that nobody refers to: what it is, its files, and when the last was written."""

    what: str
    paths: list[str]
    size_bytes: int
    modified: datetime


# ---- verify


def verify(
    store: Store,
    *,
    repair: bool = False,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Verification:
    """Hold every object of a store against its checksum, its name, and what refers to it.

    Args:
        store: which exists.
        repair: whether to make corrupt members missing, so that they are fitted again.
        on_progress: called with how many objects are done, of how many.

    Raises:
        UserError: the store does not answer.
    """
    members = sorted(entry.digest for entry in store.members())
    checkpoints = sorted(entry.path for entry in store.files.list("progress"))
    runs, searches, comparisons = (_names(store, kind) for kind in KINDS)
    total = len(members) + len(checkpoints) + len(runs) + len(searches) + len(comparisons)
    problems: list[Problem] = []
    done = 0

    with ThreadPoolExecutor(_THREADS) as pool:

        def check(things: Sequence[T], find: Callable[[T], list[Problem]]) -> None:
            nonlocal done
            for found in pool.map(find, things):
                problems.extend(found)
                done += 1
                on_progress(done, total)

        sums: dict[str, str | None] = {}
        check(members, lambda digest: _check_member(store, digest, sums, repair=repair))
        check(checkpoints, lambda path: _check_checkpoint(store, path))
        check(runs, lambda name: _check_run(store, name, sums))
        check(searches, lambda name: _check_search(store, name, sums))
        check(comparisons, lambda name: _check_comparison(store, name))
    return Verification(len(members), len(runs), len(checkpoints), problems)


def _check_member(
    store: Store, digest: str, sums: dict[str, str | None], *, repair: bool
) -> list[Problem]:
    """What is wrong with a member; its predictions' checksum (None: not sound) goes to `sums`."""
    problems: list[Problem] = []

    def dropping(read: Callable[[str], T]) -> T:
        try:
            return read(digest)
        except CorruptMember as error:
            if repair:
                store.drop_member(digest, seen=error.pointer)
            raise

    now = "it is missing now" if repair else "verify --repair makes it missing"
    advice = f"{now}: the next run that wants the member fits it again"
    stored = _tried(lambda: dropping(store.read_predictions), problems, advice)
    _tried(lambda: dropping(store.read_weights), problems, advice)
    sums[digest] = stored.sha256 if stored else None
    return list(dict.fromkeys(problems))  # both name a pointer that is wrong


def _check_checkpoint(store: Store, path: str) -> list[Problem]:
    def check() -> None:
        payload = store.files.read(path)
        if payload is not None:  # else the fit has gone on meanwhile
            check_checkpoint(path, payload)

    problems: list[Problem] = []
    advice = "the fit that meets it ignores it; gc removes it when it is old"
    _tried(check, problems, advice, f"{store.shown}/{path}: ")
    return problems


def _check_run(store: Store, name: str, sums: Mapping[str, str | None]) -> list[Problem]:
    where = f"{store.shown}/runs/{name}"
    mended = "the command that grew the run mends it"
    problems: list[Problem] = []
    record = _tried(lambda: store.read_run(name), problems, "rm removes the run, not its members")
    if record is None and not problems:
        problems.append(Problem(f"{where}/run.json: missing", f"{mended}, or rm removes it"))
    _tried(lambda: store.read_wanted(run_folder(name)), problems, mended)
    has_results = _tried(lambda: store.read_table(name, RESULTS) is not None, problems, mended)
    _tried(lambda: store.read_table(name, CONFUSION), problems, mended)
    _tried(lambda: store.read_timeline(run_folder(name)), problems, _NO_TIMELINE)
    episodes = _tried(lambda: store.read_episodes(name), problems, mended)
    if has_results is False and episodes is not None and _still_lacks_results(store, name):
        problems.append(Problem(f"{where}/{RESULTS}: missing", mended))
    for digest, sha256 in _recorded(episodes):
        member = f"{where}/{EPISODES}: its member {digest}"
        if _is_missing(store, digest, sums, problems):
            problems.append(Problem(f"{member} is missing", mended))
        elif None not in (sha256, sums.get(digest)) and sums[digest] != sha256:
            problems.append(Problem(f"{member} has other predictions than it recorded", mended))
    return problems


def _is_missing(
    store: Store, digest: str, sums: Mapping[str, str | None], problems: list[Problem]
) -> bool:
    """Whether a member is missing; what cannot be read is no less there, and a problem more."""
    # A member may have been published since all were listed.
    return digest not in sums and _tried(lambda: store.has_member(digest), problems, "") is False


def _still_lacks_results(store: Store, name: str) -> bool:
    """Whether a run that has a table of members alone is not just being recorded, or removed."""
    time.sleep(_RECORDING_S)
    files = {entry.path.rpartition("/")[2] for entry in store.files.list(run_folder(name))}
    return EPISODES in files and RESULTS not in files


def _tried(
    read: Callable[[], T], problems: list[Problem], advice: str, prefix: str = ""
) -> T | None:
    """What can be read, or None and a problem more."""
    try:
        return read()
    except StoreFailed:
        raise
    except UnreadableFile as error:  # of which what mends a damaged one is not known to help
        problems.append(Problem(error.problem, error.advice))
        return None
    except (UserError, CorruptMember, CorruptPayload) as error:
        problems.append(Problem(f"{prefix}{error}", advice))
        return None


def _check_search(store: Store, name: str, sums: Mapping[str, str | None]) -> list[Problem]:
    mended = "the command of the search mends it"
    problems: list[Problem] = []
    _tried(lambda: store.read_search(name), problems, "remove it, and give the command again")
    _tried(lambda: store.read_wanted(search_folder(name)), problems, mended)
    digests = _tried(lambda: store.read_trial_digests(name), problems, mended)
    for digest in sorted(digests or ()):
        if _is_missing(store, digest, sums, problems):
            where = f"{store.shown}/{search_folder(name)}/{TRIALS}"
            problems.append(Problem(f"{where}: its member {digest} is missing", mended))
    _tried(lambda: store.read_timeline(search_folder(name)), problems, _NO_TIMELINE)
    return problems


def _check_comparison(store: Store, name: str) -> list[Problem]:
    problems: list[Problem] = []
    mended = "the command of the comparison mends it"
    for file in ("comparison.json", "competition.json"):
        _tried(partial(_check_json, store, name, file), problems, mended)
    _tried(lambda: store.read_wanted(comparison_folder(name)), problems, mended)
    _tried(lambda: store.read_timeline(comparison_folder(name)), problems, _NO_TIMELINE)
    return problems


def _check_json(store: Store, comparison: str, file: str) -> None:
    path = f"{comparison_folder(comparison)}/{file}"
    try:
        json.loads(store.files.read(path) or b"{}")
    except (ValueError, RecursionError):
        raise UserError(f"{store.shown}/{path}: not JSON") from None


# ---- collect


def collect(store: Store, *, remove: bool, now: datetime | None = None) -> list[Garbage]:
    """Find what no run, search or work under way refers to, and is a day old.

    That is: members and checkpoints; at any age, checkpoints of finished members; and what broken
    publications left behind.

    Args:
        store: which exists.
        remove: whether to remove it, too.
        now: what the age counts from.

    Raises:
        UserError: a run's or a search's table cannot be read, or a run has lost the one that names
            its members: who knows what it refers to?
    """
    before = (now or datetime.now(UTC)) - KEPT
    # What refers is read after what is there: whoever records a member meanwhile is heard.
    members: dict[str, list[Entry]] = {}
    for entry in store.files.list("members"):
        members.setdefault(entry.path.split("/")[1], []).append(entry)
    checkpoints = list(store.files.list("progress"))
    leftovers = list(store.files.leftovers())
    wanted = _referred(store)

    garbage: list[Garbage] = []
    finished = set()
    for digest, files in sorted(members.items()):
        if any(file.path.endswith("/member.json") for file in files):
            finished.add(digest)
            if digest in wanted:
                garbage += _strays(store, digest, files, before)
            elif max(file.modified for file in files) < before:
                garbage.append(_garbage(f"member {digest}", files))
        else:
            old = [file for file in files if file.modified < before]
            garbage += [_garbage(f"unpublished files of member {digest}", old)] if old else []
    for checkpoint in checkpoints:
        digest = checkpoint.path.split("/")[1]
        if digest in finished or (digest not in wanted and checkpoint.modified < before):
            garbage.append(_garbage(f"checkpoint of member {digest}", [checkpoint]))
    for leftover in leftovers:
        if leftover.modified < before:
            garbage.append(_garbage("a write that never ended", [leftover]))
    if remove:
        for path in (path for piece in garbage for path in piece.paths):
            store.files.delete(path)
    return garbage


def _garbage(what: str, files: Sequence[Entry]) -> Garbage:
    # The pointer first: what is left of a member that is half removed is no member.
    paths = sorted((f.path for f in files), key=lambda path: not path.endswith("/member.json"))
    size = sum(file.size_bytes for file in files)
    return Garbage(what, paths, size, max(file.modified for file in files))


def _strays(
    store: Store, digest: str, files: Sequence[Entry], before: datetime
) -> Iterator[Garbage]:
    """Files that lost the race of two publications."""
    if len(files) <= 3:  # the pointer and its two payloads
        return
    try:
        pointer = json.loads(store.files.read(f"members/{digest}/member.json") or b"")
        named = {"member.json", pointer["weights"]["name"], pointer["predictions"]["name"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # for `verify` to tell
    strays = [f for f in files if f.path.rpartition("/")[2] not in named and f.modified < before]
    if strays:
        yield _garbage(f"unused files of member {digest}", strays)


# ---- what refers to members


def _names(store: Store, kind: str) -> list[str]:
    return [folder.name for folder in store.named(kind)]


def _referred(store: Store) -> set[str]:
    """All members that a run, a search, or work under way refers to."""
    found: set[str] = set()
    for name in _names(store, "runs"):
        found.update(store.read_wanted(run_folder(name)))
        found.update(digest for digest, _ in _recorded(store.read_episodes(name)))
    for name in _names(store, "searches"):
        found.update(store.read_wanted(search_folder(name)))
        found.update(store.read_trial_digests(name))
    for name in _names(store, "comparisons"):  # what is grown in them is runs
        found.update(store.read_wanted(comparison_folder(name)))
    return found


def _recorded(episodes: Mapping[str, Sequence[Any]] | None) -> Iterator[tuple[str, str | None]]:
    """Members of a run's table, with their predictions' checksums if it has them."""
    if episodes is None:
        return
    digests = episodes["digest"]
    sums = episodes.get("predictions_sha256", [None] * len(digests))
    yield from zip(digests, sums, strict=True)
