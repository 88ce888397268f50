"""Processes below this one, as /proc shows them."""

import os
import socket
import time
from pathlib import Path


def descendants(of: int | None = None) -> list[int]:
    """The processes that one has started, and those that they have started; parents first."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        if stat := _read(int(path.name), "stat"):
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.name))
    found = list(children.get(of or os.getpid(), []))
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def pids_of(title: str, *, of: int | None = None) -> list[int]:
    """The descendants that call themselves so, and live."""
    return [pid for pid in descendants(of) if _read(pid, "cmdline").startswith(title)]


def lives(pid: int) -> bool:
    """Whether a process is there, and not just waiting to be buried."""
    stat = _read(pid, "stat")
    return bool(stat) and stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_until(condition, *, seconds=60):
    """Wait for something that happens outside."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def free_ports() -> tuple[int, int]:
    """Two that nobody listens on."""
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _read(pid: int, file: str) -> str:
    try:
        return Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return ""
