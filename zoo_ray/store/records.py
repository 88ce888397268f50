"""What the store records of runs and searches."""

from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from zoo_ray.errors import UserError
from zoo_ray.store.payloads import FORMAT_VERSION

MAX_NAME_LENGTH = 100


class TaskRecord(BaseModel):
    """A task, as a run's record names it.

    Attributes:
        image_shape: height, width and channels; None in records older than this key.
    """

    name: str
    classes: list[str]
    digest: str
    image_shape: tuple[int, int, int] | None = None


class RunRecord(BaseModel):
    """A run's `run.json`: what was asked for, resolved, and with which versions.

    Attributes:
        config: the configuration as it was given, defaults included.
        recipe: the recipe resolved.
        zoo: the zoo's rules.
        tasks: the stream.
        episodes: how many the zoo has when it is grown; None in records older than this key, which
            have one for each task.
        versions: of Python and the packages that ran.
        weights_source: SHA-256 of the file of the user's own rule of weights; empty: there is none.
    """

    format_version: Literal[1] = FORMAT_VERSION
    config: dict[str, Any]
    recipe: dict[str, Any]
    zoo: dict[str, Any]
    tasks: list[TaskRecord]
    episodes: int | None = None
    versions: dict[str, str]
    weights_source: str = ""


class SearchRecord(BaseModel):
    """A search's `search.json`.

    Attributes:
        search: the configuration as it was given, defaults included.
        samples: how many trials it has without a budget.
        recipe: of the base run, resolved.
        tasks: the stream.
        versions: of Python and the packages that ran.
        weights_source: as of a run, of all rules that its base and space name.
    """

    format_version: Literal[1] = FORMAT_VERSION
    search: dict[str, Any]
    samples: int
    recipe: dict[str, Any]
    tasks: list[TaskRecord]
    versions: dict[str, str]
    weights_source: str = ""


class NamedFolder(NamedTuple):
    """A run, search or comparison, whatever is in it.

    Attributes:
        kind: its folder's folder, as `runs`.
        name: of it.
        size_bytes: of its files, members not counted.
        modified: when one of them was last written.
        what: it is called, as `competition study`.
    """

    kind: str
    name: str
    size_bytes: int
    modified: datetime
    what: str


class RunSummary(NamedTuple):
    """A run as `Store.runs` lists it.

    Attributes:
        name: of the run.
        size_bytes: of its files, members not counted.
        modified: when one of them was last written.
        record: its `run.json`, if it can be read.
        episodes: how many its tables cover.
        members: that its tables name.
        problem: why it cannot be read, if so.
    """

    name: str
    size_bytes: int = 0
    modified: datetime = datetime.min.replace(tzinfo=UTC)
    record: RunRecord | None = None
    episodes: int = 0
    members: int = 0
    problem: str | None = None


class MemberEntry(NamedTuple):
    """A finished member: its digest, the size of its files, and when it was published."""

    digest: str
    size_bytes: int
    modified: datetime


def zoo_name(study: str, zoo: str, seed: int) -> str:
    """The name of a run that was grown for a comparison or a study, beside others."""
    return f"{study}.{zoo}.{seed}"


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
