"""The narrow interface between the store and what keeps its bytes."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple, Protocol

from zoo_ray.address import Address

KINDS = {"runs": "run", "searches": "search", "comparisons": "comparison"}
"""Folders of what people name, and what one of it is called."""
FOLDERS = ("members", "progress", *KINDS)
"""All that a store keeps is in one of these; whatever else lies there is not ours."""

Change = Callable[[bytes | None], bytes | None]


class Entry(NamedTuple):
    """A file in a store: its path from the store's root, and when it was last written (UTC)."""

    path: str
    size_bytes: int
    modified: datetime


class Files(Protocol):
    """Files by path, with `/` between folders; folders exist as far as files do.

    Every method tries again for a while if what keeps the files does not answer, and raises a
    `UserError` if that does not help, or cannot. A write is durable when its method returns.
    """

    @property
    def address(self) -> Address:
        """Where the files are."""

    def check_writable(self) -> None:
        """Raise a `UserError` where it can be told without writing that nothing can be written."""

    def read(self, path: str) -> bytes | None:
        """A file's content, or None if there is none."""

    def replace(self, path: str, payload: bytes) -> None:
        """Write a file: a reader sees the one before or this one, whole."""

    def create(self, path: str, payload: bytes) -> bool:
        """Write a file only if there is none, atomically.

        Returns:
            Whether this call wrote it. False says that there is one, which may be this call's own
            if the answer was lost and the call tried again: compare if it matters.
        """

    def update(self, path: str, change: Change) -> bytes | None:
        """Write a file as a function of what it is, losing no other update.

        Args:
            path: of the file.
            change: gives the new content, or None to leave the file as it is. May be called
                several times, and may meet what it gave before.

        Returns:
            The content afterwards.
        """

    def delete(self, path: str) -> None:
        """Remove a file, if it is there."""

    def delete_if(self, path: str, seen: bytes) -> bool:
        """Remove a file if its content still is what was seen; whether it was removed."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """All files below a folder, in no order; those that come or go meanwhile may be missed."""

    def leftovers(self) -> Iterator[Entry]:
        """What writes left behind that never ended; `delete` removes it."""
