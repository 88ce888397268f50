"""What every kind of store's files must do."""

import errno
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from zoo_ray.address import parse_address
from zoo_ray.errors import UserError
from zoo_ray.store.opening import open_files

ROOT = Path(__file__).parents[2]
NAMES = [
    *(
        "my run",
        " a ",
        "日本語",
        "naïve é",
        "e\u0301",
        "v1.2",
        ".hidden",
        "a..b",
        "...",
        "trailing.",
    ),
    *("100%", "a%20b", "%2F", "a+b", "a#b", "a?b", "a&b=c", "~", "*", "[x]", "{y}", "'q'", '"'),
    *("a:b", "a;b", "<x>", "$x", "@x", "!", "|", "^", "`", "x" * 100),
]


def paths(files, prefix):
    return sorted(entry.path for entry in files.list(prefix))


def test_what_is_written_is_read(files):
    assert files.read("runs/a/b") is None
    for payload in (b"", b"x", os.urandom(12 << 20)):
        files.replace("runs/a/b", payload)
        assert files.read("runs/a/b") == payload


def test_a_file_is_created_once(files):
    assert files.create("runs/a", b"first")
    assert not files.create("runs/a", b"second")
    assert files.read("runs/a") == b"first"
    files.delete("runs/a")
    assert files.create("runs/a", b"third")


def test_a_file_that_is_absent_may_be_deleted(files):
    files.delete("runs/a/b")
    files.replace("runs/a/b", b"x")
    files.delete("runs/a/b")
    files.delete("runs/a/b")
    assert files.read("runs/a/b") is None
    assert paths(files, "runs") == []


def test_a_file_is_deleted_only_as_it_was_seen(files):
    assert not files.delete_if("runs/a", b"x")
    files.replace("runs/a", b"x")
    assert not files.delete_if("runs/a", b"y")
    assert files.read("runs/a") == b"x"
    assert files.delete_if("runs/a", b"x")
    assert files.read("runs/a") is None


def test_an_update_sees_what_is_there_and_may_leave_it(files):
    seen = []
    assert files.update("runs/a", lambda old: seen.append(old)) is None
    assert files.read("runs/a") is None
    assert files.update("runs/a", lambda _: b"1") == b"1"
    assert files.update("runs/a", lambda old: old + b"2") == b"12"
    assert files.update("runs/a", lambda _: None) == b"12"
    assert files.read("runs/a") == b"12"
    assert seen == [None]


def test_what_an_update_raises_comes_out_and_changes_nothing(files):
    files.replace("runs/a", b"x")

    def change(old):
        raise KeyError(old)

    with pytest.raises(KeyError):
        files.update("runs/a", change)
    assert files.read("runs/a") == b"x"


def test_files_are_listed_below_a_folder_and_nowhere_else(files):
    for path in ("runs/a/run.json", "runs/a/deep/er/x", "runs/ab", "runsx", "members/a"):
        files.replace(path, b"12345")
    assert paths(files, "runs") == ["runs/a/deep/er/x", "runs/a/run.json", "runs/ab"]
    assert paths(files, "runs/a") == ["runs/a/deep/er/x", "runs/a/run.json"]
    assert paths(files, "searches") == []
    entry = next(files.list("members"))
    assert entry.size_bytes == 5
    assert abs(datetime.now(UTC) - entry.modified) < timedelta(minutes=1)


def test_names_may_hold_anything_printable(files):
    for number, name in enumerate(NAMES):
        files.replace(f"runs/{name}/run.json", str(number).encode())
    assert paths(files, "runs") == sorted(f"runs/{name}/run.json" for name in NAMES)
    for number, name in enumerate(NAMES):
        assert paths(files, f"runs/{name}") == [f"runs/{name}/run.json"]
        assert files.read(f"runs/{name}/run.json") == str(number).encode()
        files.update(f"runs/{name}/run.json", lambda old: old + b"!")
        assert files.delete_if(f"runs/{name}/run.json", f"{number}!".encode())
    assert paths(files, "runs") == []


def test_prefixes_of_buckets_may_hold_spaces_and_escapes(s3_address):
    where, _, query = s3_address.partition("?")
    files = open_files(parse_address(f"{where}/my runs/100%25 é?{query}"), patience_s=10)
    files.replace("runs/a", b"x")
    assert files.address.shown.endswith("/my runs/100% é")
    above = open_files(parse_address(s3_address), patience_s=10)
    assert paths(above, "my runs") == ["my runs/100% é/runs/a"]


def test_readers_never_see_half_a_file(files):
    sizes = (10, 3_000_000)
    files.replace("runs/a", b"\0" * sizes[0])
    over = threading.Event()
    torn = []

    def read():
        while not over.is_set():
            payload = files.read("runs/a")
            if payload is None or len(payload) not in sizes or len(set(payload)) != 1:
                torn.append(payload)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(20):
            files.replace("runs/a", bytes([number]) * sizes[number % 2])
    finally:
        over.set()
        reader.join()
    assert torn == []


COUNT = """
import sys
from zoo_ray.address import parse_address
from zoo_ray.store.opening import open_files
files = open_files(parse_address(sys.argv[1]), patience_s=60)
print("ready", flush=True)
sys.stdin.readline()
made = 0
for number in range(10):
    files.update("runs/count", lambda old: str(int(old or 0) + 1).encode())
    made += files.create(f"runs/{number}", (sys.argv[2] * 100_000).encode())
print(made)
"""


def test_of_processes_that_write_at_once_none_loses_an_update_and_one_creates(files):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT, files.address.text, name],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "abc"
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    made = [int(process.communicate()[0]) for process in processes]
    assert files.read("runs/count") == b"30"
    assert sum(made) == 10
    winners = [files.read(f"runs/{number}") for number in range(10)]
    assert all(len(winner) == 100_000 and len(set(winner)) == 1 for winner in winners)
    assert sorted(made) == sorted(sum(w[:1] == n for w in winners) for n in (b"a", b"b", b"c"))


# ---- folders


@pytest.fixture
def folder(tmp_path):
    return open_files(parse_address(str(tmp_path / "store")), patience_s=0)


def test_leftovers_of_killed_writers_are_not_listed_but_found(folder, tmp_path):
    folder.replace("runs/a/run.json", b"x")
    leftover = tmp_path / "store/runs/a" / f".{'0' * 32}.part"
    leftover.write_bytes(b"half")
    assert paths(folder, "runs") == ["runs/a/run.json"]
    (found,) = folder.leftovers()
    assert found.path == f"runs/a/{leftover.name}"
    folder.delete(found.path)
    assert not leftover.exists()


def test_what_may_not_be_looked_at_is_not_passed_over(folder, monkeypatch):
    folder.replace("runs/a/run.json", b"x")
    for link, to in (("nothing", "none"), ("itself", "itself"), ("linked", "a")):
        os.symlink(to, f"{folder.address.text}/runs/{link}")
    assert paths(folder, "runs") == ["runs/a/run.json", "runs/linked/run.json"]

    def asked(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr("zoo_ray.store.local.os.stat", asked)
    with pytest.raises(UserError, match=r"list runs/\S+ \(Permission denied\); see to it that you"):
        paths(folder, "runs")


def test_no_empty_folders_stay(folder, tmp_path):
    folder.replace("runs/a/deep/x", b"x")
    folder.replace("runs/b", b"x")
    folder.delete("runs/a/deep/x")
    assert [path.name for path in (tmp_path / "store/runs").iterdir()] == ["b"]
    folder.delete("runs/b")
    assert (tmp_path / "store").is_dir()


def test_a_full_disk_is_one_line_and_leaves_nothing(folder, tmp_path, monkeypatch):
    folder.replace("runs/a", b"before")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    writes = (
        lambda: folder.replace("runs/a", b"after"),
        lambda: folder.create("runs/b", b"after"),
        lambda: folder.update("runs/a", lambda _: b"after"),
    )
    for write in writes:
        with pytest.raises(UserError, match=r"cannot write runs/. \(No space left.*make room"):
            write()
    monkeypatch.undo()
    assert folder.read("runs/a") == b"before"
    assert [path.name for path in (tmp_path / "store/runs").iterdir()] == ["a"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a mount")
def test_a_disk_that_is_really_full(tmp_path):
    tmp_path.joinpath("disk").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path / "disk")], check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount")
    try:
        folder = open_files(parse_address(str(tmp_path / "disk/store")), patience_s=60)
        folder.replace("runs/a", b"x" * 10_000)
        with pytest.raises(UserError, match=r"No space left on device.*make room") as caught:
            folder.replace("runs/b", b"x" * 100_000)
        assert "\n" not in str(caught.value)
        assert paths(folder, "runs") == ["runs/a"]
        assert list(folder.leftovers()) == []
        folder.replace("runs/a", b"y" * 10_000)
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def test_what_cannot_be_written_is_told_before_it_is_tried(folder, tmp_path, monkeypatch):
    folder.check_writable()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(os, "access", lambda path, _: path != str(tmp_path))
    with pytest.raises(UserError, match=r"cannot write members \(Permission denied\); give"):
        folder.check_writable()
    # Where the store's own folders are there and can be written, that above them does not count.
    for top in ("members", "runs"):
        (tmp_path / "store" / top).mkdir(parents=True)
    folder.check_writable()


def test_a_file_system_without_locks_is_done_without(folder, monkeypatch):
    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    assert folder.update("runs/a", lambda _: b"x") == b"x"
    assert folder.delete_if("runs/a", b"x")


def test_two_who_saw_the_same_corrupt_file_drop_it_once(folder):
    """The second one's view is old: what was published meanwhile stays."""
    folder.create("members/a/member.json", b"corrupt")
    assert folder.delete_if("members/a/member.json", b"corrupt")
    assert folder.create("members/a/member.json", b"good")
    assert not folder.delete_if("members/a/member.json", b"corrupt")
    assert folder.read("members/a/member.json") == b"good"
