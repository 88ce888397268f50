"""Files in a local or shared folder."""

import contextlib
import errno
import fcntl
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from zoo_ray.address import Address
from zoo_ray.store.files import FOLDERS, Change, Entry
from zoo_ray.store.retry import Trouble, persist

T = TypeVar("T")

# A shared folder's server that is away for a moment.
_PASSING = {
    getattr(errno, name)
    for name in (
        *("EAGAIN", "EBUSY", "EINTR", "EIO", "ESTALE", "ETIMEDOUT", "ECONNRESET", "ECONNREFUSED"),
        *("ECONNABORTED", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH"),
        *("ENETRESET", "ECOMM", "EREMOTEIO", "ENOLINK"),
    )
}
# What keeps one from reading a file, whatever the others are.
_OF_FILE = {errno.EACCES, errno.EPERM, errno.ELOOP}
# What a file system says that has no locks, or does not sync folders.
_UNABLE = {errno.ENOLCK, errno.ENOTSUP, errno.EBADF, errno.EINVAL, errno.ENOSYS}

_LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.part")


class LocalFiles:
    """Files in a folder, which is created when something is first written.

    `update` and `delete_if` hold a lock on the file's folder. Where the file system has no locks
    (some network file systems), two of them at the same moment on the same file may lose one;
    `create` needs none.
    """

    def __init__(self, address: Address, *, patience_s: float) -> None:
        self.address = address
        self._patience_s = patience_s

    def check_writable(self) -> None:
        """See `Files`."""
        for top in ("members", "runs"):
            self._persist("write", top, partial(_check_writable, self._full(top)))

    def read(self, path: str) -> bytes | None:
        """See `Files`."""
        return self._persist("read", path, lambda: _read(self._full(path)))

    def replace(self, path: str, payload: bytes) -> None:
        """See `Files`."""
        self._persist("write", path, lambda: _write(self._full(path), payload, publish=os.replace))

    def create(self, path: str, payload: bytes) -> bool:
        """See `Files`."""
        # A link, unlike a rename, refuses to replace.
        try:
            self._persist("write", path, lambda: _write(self._full(path), payload, publish=os.link))
        except FileExistsError:
            return False
        return True

    def update(self, path: str, change: Change) -> bytes | None:
        """See `Files`."""
        full = self._full(path)

        def attempt() -> bytes | None:
            _make_folder(os.path.dirname(full))
            with _locked(os.path.dirname(full)):
                before = _read(full)
                after = change(before)
                if after is None:
                    return before
                _write(full, after, publish=os.replace)
                return after

        return self._persist("write", path, attempt)

    def delete(self, path: str) -> None:
        """See `Files`. Folders that are empty then go too."""

        def attempt() -> None:
            full = self._full(path)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(full)
            folder = os.path.dirname(full)
            with contextlib.suppress(OSError):
                while len(folder) > len(self.address.text):
                    os.rmdir(folder)
                    folder = os.path.dirname(folder)

        self._persist("remove", path, attempt)

    def delete_if(self, path: str, seen: bytes) -> bool:
        """See `Files`."""

        def attempt() -> bool:
            full = self._full(path)
            try:
                with _locked(os.path.dirname(full)):
                    found = _read(full) == seen
                    if found:
                        os.unlink(full)
                    return found
            except (FileNotFoundError, NotADirectoryError):
                return False

        return self._persist("remove", path, attempt)

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Files`."""
        return (entry for entry in self._walk(prefix) if not _is_leftover(entry.path))

    def leftovers(self) -> Iterator[Entry]:
        """See `Files`."""
        return (e for top in FOLDERS for e in self._walk(top) if _is_leftover(e.path))

    def _full(self, path: str) -> str:
        return os.path.join(self.address.text, path)

    def _walk(self, prefix: str) -> Iterator[Entry]:
        for entry in self._persist("list", prefix, lambda: _scan(self._full(prefix))):
            path = f"{prefix}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):  # which asks the file system nothing
                yield from self._walk(path)
                continue
            status = self._persist("list", path, partial(_status, entry.path))
            if status is None:
                continue
            if stat.S_ISDIR(status.st_mode):
                yield from self._walk(path)
                continue
            modified = datetime.fromtimestamp(status.st_mtime, UTC)
            yield Entry(path=path, size_bytes=status.st_size, modified=modified)

    def _persist(self, verb: str, path: str, action: Callable[[], T]) -> T:
        return persist(
            action,
            what=f"store {self.address.shown}: cannot {verb} {path}".rstrip(),
            diagnose=partial(_diagnose, verb),
            patience_s=self._patience_s,
        )


def _diagnose(verb: str, error: Exception) -> Trouble | None:
    if not isinstance(error, OSError) or isinstance(error, FileExistsError):
        return None
    reason = error.strerror or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "make room, and the same command goes on where it ended; or give another --store"
        return Trouble(reason, passing=False, advice=advice)
    if verb == "read" and error.errno == errno.EISDIR:
        return Trouble(reason, False, "move that folder away", of_file=True)
    if verb in ("read", "list"):
        of_file = verb == "read" and error.errno in _OF_FILE
        advice = "see to it that you may read it"
        return Trouble(reason, error.errno in _PASSING, advice, of_file=of_file)
    advice = "give a folder that you may write to, and have room in, with --store"
    return Trouble(reason, passing=error.errno in _PASSING, advice=advice)


def _is_leftover(path: str) -> bool:
    return _LEFTOVER.fullmatch(path.rpartition("/")[2]) is not None


def _read(full: str) -> bytes | None:
    try:
        with open(full, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _status(full: str) -> os.stat_result | None:
    """None where it went away, or is a link to nothing; what may not be asked is not passed over:
    whoever collects garbage would not know what it refers to."""
    try:
        return os.stat(full)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise


def _write(full: str, payload: bytes, *, publish: Callable[[str, str], None]) -> None:
    """Write aside, then publish: whole, and on the disk, or not at all."""
    folder = os.path.dirname(full)
    aside = os.path.join(folder, f".{uuid.uuid4().hex}.part")
    attempts = 3
    while True:
        try:
            _make_folder(folder)
            with open(aside, "xb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            publish(aside, full)
            break
        except FileNotFoundError:
            # Somebody removed the folder, which was empty.
            attempts -= 1
            if not attempts:
                raise
        finally:
            with contextlib.suppress(OSError):
                os.unlink(aside)
    _sync_folder(folder)


def _check_writable(folder: str) -> None:
    """Raise the OSError that making a folder, or a file in it, would."""
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        code = errno.ENOTDIR
    elif not os.access(folder, os.W_OK | os.X_OK):
        code = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
    else:
        return
    raise OSError(code, os.strerror(code))


def _make_folder(folder: str) -> None:
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    if above != folder:
        _make_folder(above)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)
        _sync_folder(above)


def _sync_folder(folder: str) -> None:
    """Names last through a power cut only once their folder is on the disk."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # removed again
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _UNABLE:
                raise
        yield
    finally:
        os.close(handle)
