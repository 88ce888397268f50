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


def free_ports(count: int) -> list[int]:
    """So many that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _read(pid: int, file: str) -> str:
    try:
        return Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return ""
