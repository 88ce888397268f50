"""Clean stops: Ctrl-C and SIGTERM end a command within seconds and leave no process behind."""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

JOB_VARIABLE = "ZOO_RAY_JOB"
"""Environment variable that tells a command as which job of a cluster it runs."""

# Ray's `ray job stop` kills what has not ended 3 s after its SIGTERM.
_END_WITHIN_S = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h"
_folders: set[str] = set()


class Stopped(KeyboardInterrupt):
    """The process is about to end, with all that it has started. Nobody takes it for a failure."""


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """A folder that goes with this context, and with a process that a signal ends."""
    with tempfile.TemporaryDirectory(prefix="zoo_ray-", ignore_cleanup_errors=True) as folder:
        _folders.add(folder)  # for good: a thread of Ray's may yet make it again
        yield folder


@contextlib.contextmanager
def clean_stops(*, farewell: str) -> Iterator[None]:
    """Within this context, the first Ctrl-C or SIGTERM raises Stopped, and the context ends the
    process.

    Whatever the command does in between, the process ends in time: with all processes that it has
    started, and with the exit code that shells expect of a command that a signal has stopped.

    Args:
        farewell: the last line on stderr.
    """
    received: list[int] = []
    watched, told = os.pipe()
    os.set_blocking(told, False)

    def stop(number: int, _: FrameType | None) -> None:
        if not received:  # a second Ctrl-C must not interrupt the clean-up
            received.append(number)
            raise Stopped

    def end_in_time() -> None:
        # The main thread may wait in C, for a store or a cluster that does not answer, where even
        # the handler must wait. What is written into the pipe comes at once.
        # Other signals that have handlers are told, too; nothing: the context has ended.
        while (number := os.read(watched, 1)) and number[0] not in _SIGNALS:
            pass
        if number:  # the pipe stays open: another signal is written into it, too
            time.sleep(_END_WITHIN_S)
            _end(number[0], farewell)
        os.close(watched)

    def ignored(what: "sys.UnraisableHookArgs") -> None:
        # A signal that came during a callback of a weak reference, say: the thread above ends it.
        if not issubclass(what.exc_type, (KeyboardInterrupt, SystemExit)):
            hook_before(what)

    hook_before, sys.unraisablehook = sys.unraisablehook, ignored
    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    wakeup_before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    threading.Thread(target=end_in_time, daemon=True).start()
    try:
        yield
    except BaseException as error:
        if received:  # whatever came up on the way out: that is not why the command ends
            _end(received[0], farewell)
        if isinstance(error, SystemExit) and error.code == signal.SIGTERM:
            _end(signal.SIGTERM, farewell)  # Ray's handler, in force while Ray starts
        raise
    finally:
        sys.unraisablehook = hook_before
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(told)


def _end(number: int, farewell: str) -> NoReturn:
    _kill_descendants()
    for folder in [*_folders]:
        shutil.rmtree(folder, ignore_errors=True)
    # Not sys.stderr, which progress bars may still wrap.
    if (errors := sys.__stderr__) is not None:
        with contextlib.suppress(OSError, ValueError):
            if errors.isatty():
                errors.write(_SHOW_CURSOR)
            print(farewell, file=errors, flush=True)
            sys.stdout.flush()
    # Without Ray's own clean-up, which waits for processes that are no more.
    os._exit(128 + number)


def _kill_descendants() -> None:
    """End the processes that this one has started, and those that they have started."""
    # Stopped first: one that is killed while it forks leaves a child that nobody knows.
    stopped: set[int] = set()
    while new := _descendants() - stopped:
        _signal(new, signal.SIGSTOP)
        stopped |= new
    _signal(stopped, signal.SIGKILL)


def _descendants() -> set[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):  # it has just ended
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.name))
    found = children.get(os.getpid(), [])
    for pid in found:
        found.extend(children.get(pid, []))
    return set(found)


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
