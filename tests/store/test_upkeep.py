"""Stores that are sound, and stores that are not; what is kept and what goes."""

import errno
import os
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from toys import toy_member, toy_record, toy_spec, toy_tables

from zoo_ray.errors import UserError
from zoo_ray.members.member import Checkpoint
from zoo_ray.store import Store
from zoo_ray.store.payloads import table_to_bytes
from zoo_ray.store.retry import StoreFailed
from zoo_ray.store.upkeep import collect, verify

SPECS = [toy_spec(seed=seed) for seed in range(3)]
EPISODES, RESULTS = "runs/my run/episodes.parquet", "runs/my run/results.parquet"
DIGESTS = [spec.digest for spec in SPECS]
LATER = datetime.now(UTC) + timedelta(days=1, hours=2)
"""When all that the tests write is more than a day old."""


def checkpoint(step=1):
    return Checkpoint(
        step=step, epoch_losses=[], arrays={"a": np.zeros(3, np.float32)}, hardware={}
    )


@pytest.fixture
def full(store):
    """Three members; a run that refers to the first two of them; a checkpoint of another."""
    for seed, spec in enumerate(SPECS):
        store.publish_member(spec, toy_member(seed=seed), call="test")
    store.create_run("my run", toy_record(2))
    tables = toy_tables(DIGESTS[:2])
    sums = [store.read_predictions(digest).sha256 for digest in DIGESTS[:2]]
    store.write_results(
        "my run",
        episodes=tables["episodes"] | {"predictions_sha256": sums},
        results=tables["results"],
    )
    store.write_checkpoint("f" * 64, checkpoint())
    return store


def path_of(store, prefix, part):
    (path,) = (entry.path for entry in store.files.list(prefix) if part in entry.path)
    return path


# ---- verify


def test_a_sound_store_has_no_problems(full):
    calls = []
    findings = verify(full, on_progress=lambda *counts: calls.append(counts))
    assert findings == (3, 1, 1, [])
    assert calls == [(done, 5) for done in range(1, 6)]


def flipped(payload):
    return payload[:-9] + bytes([payload[-9] ^ 1]) + payload[-8:]


DAMAGE = {
    "weights": (f"members/{DIGESTS[2]}", "weights-"),
    "predictions": (f"members/{DIGESTS[2]}", "predictions-"),
    "pointer": (f"members/{DIGESTS[2]}", "member.json"),
    "checkpoint": ("progress", "safetensors"),
    "record": ("runs", "run.json"),
    "episodes": ("runs", "episodes.parquet"),
    "results": ("runs", "results.parquet"),
}


@pytest.mark.parametrize("change", [flipped, lambda p: p[: len(p) // 2], lambda _: b""])
@pytest.mark.parametrize("what", DAMAGE)
def test_anything_damaged_is_named_once(full, what, change):
    path = path_of(full, *DAMAGE[what])
    payload = full.files.read(path)
    if what in ("record", "pointer"):  # of which a flipped bit may spare what matters
        full.files.replace(path, payload[: len(payload) // 2])
    elif what in ("episodes", "results") and change is flipped:
        full.files.replace(path, payload[:-1] + b"?")
    else:
        full.files.replace(path, change(payload))
    (problem,) = verify(full).problems
    assert problem.problem.startswith(f"{full.shown}/{path}")
    assert problem.advice
    assert "\n" not in problem.problem


@pytest.mark.parametrize("what", ["weights", "predictions", "record"])
def test_anything_missing_is_named(full, what):
    path = path_of(full, *DAMAGE[what])
    full.files.delete(path)
    (problem,) = verify(full).problems
    assert f"{full.shown}/{path}: missing" in problem.problem


LOST = {
    "missing": lambda store: store.files.delete(EPISODES),
    "another table": lambda store: store.files.replace(EPISODES, store.files.read(RESULTS)),
}


@pytest.mark.parametrize("is_begun", [True, False], ids=["", "no record"])
@pytest.mark.parametrize("lost", LOST)
def test_members_of_a_run_that_lost_its_table_of_them_are_no_garbage(full, lost, is_begun):
    LOST[lost](full)
    if not is_begun:
        full.files.delete("runs/my run/run.json")
    *others, problem = verify(full).problems
    assert len(others) == (0 if is_begun else 1)
    assert problem.problem.startswith(f"{full.shown}/{EPISODES}: ")
    assert "the command that grew the run" in problem.advice
    before = everything(full)
    with pytest.raises(UserError, match=rf"{EPISODES}: .*the command that grew the run writes it"):
        collect(full, remove=True, now=LATER)
    assert everything(full) == before
    (run,) = full.runs()
    assert run.problem
    full.create_run("my run", toy_record(2))
    full.write_results("my run", **toy_tables(DIGESTS[:2]))
    assert verify(full).problems == []
    assert f"member {DIGESTS[2]}" in names(collect(full, remove=False, now=LATER))


@pytest.mark.parametrize("file", ["confusion.parquet", "report/accuracy.png"])
def test_all_that_a_run_writes_tells_that_its_table_of_members_is_missing(full, file):
    full.files.replace(f"runs/x/{file}", full.files.read(RESULTS))
    with pytest.raises(UserError, match=r"runs/x/episodes.parquet: missing.*or rm removes the run"):
        collect(full, remove=False, now=LATER)


def test_results_that_are_missing_are_named(full, monkeypatch):
    monkeypatch.setattr("zoo_ray.store.upkeep._RECORDING_S", 0)
    full.files.delete(RESULTS)
    (problem,) = verify(full).problems
    assert problem.problem == f"{full.shown}/{RESULTS}: missing"
    assert collect(full, remove=False, now=LATER)


def test_a_run_that_is_just_begun_is_sound(full):
    full.create_run("begun", toy_record())
    full.write_wanted("runs/begun", [DIGESTS[2]])
    assert verify(full).problems == []
    assert names(collect(full, remove=False, now=LATER)) == [f"checkpoint of member {'f' * 64}"]


def test_verify_beside_a_run_that_is_being_recorded_waits_for_its_next_table(full, monkeypatch):
    results = full.files.read(RESULTS)
    full.files.delete(RESULTS)
    clock = SimpleNamespace(sleep=lambda _: full.files.replace(RESULTS, results))
    monkeypatch.setattr("zoo_ray.store.upkeep.time", clock)
    assert verify(full).problems == []


def test_gc_beside_a_run_that_is_recorded_and_removed_goes_on(full, monkeypatch):
    looks = []

    def looking(change):
        def look(*arguments):
            found = change(*arguments)
            looks.append(len(collect(full, remove=False, now=LATER)))
            return found

        return look

    for way in ("update", "delete"):
        monkeypatch.setattr(full.files, way, looking(getattr(full.files, way)))
    full.create_run("x", toy_record())
    full.write_results("x", **toy_tables(DIGESTS[2:]), confusion={"episode": [1]})
    full.write_file("runs/x", "report/accuracy.png", b"")
    full.remove("runs/x")
    assert looks == [2, 1, 1, 1, 1, 1, 1, 2, 2]


def test_a_member_that_a_run_refers_to_must_be_there_and_be_that_one(full):
    full.drop_member(DIGESTS[0])
    full.drop_member(DIGESTS[1])
    full.publish_member(SPECS[1], toy_member(seed=7), call="again")
    problems = [problem.problem for problem in verify(full).problems]
    where = f"{full.shown}/runs/my run/episodes.parquet: its member"
    assert problems == [
        f"{where} {DIGESTS[0]} is missing",
        f"{where} {DIGESTS[1]} has other predictions than it recorded",
    ]


def test_a_corrupt_member_is_told_once_though_a_run_refers_to_it(full):
    path = path_of(full, f"members/{DIGESTS[0]}", "predictions-")
    full.files.replace(path, b"?")
    assert len(verify(full).problems) == 1


def test_a_member_that_a_search_refers_to_must_be_there(full):
    full.write_trials("lr", {"digests": [DIGESTS[2:]]})
    assert verify(full).problems == []
    full.drop_member(DIGESTS[2])
    (problem,) = verify(full).problems
    assert problem.problem.endswith(
        f"searches/lr/trials.parquet: its member {DIGESTS[2]} is missing"
    )


def test_other_tables_and_lists_are_looked_at_too(full):
    full.files.replace("searches/lr/trials.parquet", b"?")
    full.files.replace("runs/my run/wanted.json", b"[]")
    full.files.replace("comparisons/c/comparison.json", b'{"format_version": 1')
    problems = [problem.problem for problem in verify(full).problems]
    assert [problem.split(": ")[0] for problem in problems] == [
        f"{full.shown}/runs/my run/wanted.json",
        f"{full.shown}/searches/lr/trials.parquet",
        f"{full.shown}/comparisons/c/comparison.json",
    ]


# ---- files that cannot be read


def refuse(monkeypatch, code, *paths):
    """Have the file system answer with an error where some of a folder's files are opened."""

    def opened(path, *arguments):
        if path.endswith(paths):
            raise OSError(code, os.strerror(code), path)
        return open(path, *arguments)

    monkeypatch.setattr("zoo_ray.store.local.open", opened, raising=False)


UNREADABLE = [
    *("runs/my run/run.json", EPISODES, RESULTS, "runs/my run/wanted.json"),
    *("runs/my run/timeline.parquet", f"members/{DIGESTS[2]}/member.json", "progress/{}"),
    *("searches/lr/search.json", "searches/lr/trials.parquet", "comparisons/c/comparison.json"),
]


@pytest.mark.parametrize("path", UNREADABLE)
@pytest.mark.parametrize("address", ["folder"], indirect=True)
def test_a_file_that_may_not_be_read_is_named_and_all_others_are_looked_at(full, path, monkeypatch):
    path = path_of(full, "progress", "") if "{}" in path else path
    full.files.replace(path_of(full, f"members/{DIGESTS[0]}", "weights-"), b"?")
    for folder in ("searches/lr", "comparisons/c"):
        full.write_wanted(folder, [])
    refuse(monkeypatch, errno.EACCES, path)
    findings = verify(full)
    assert findings[:3] == (3, 1, 1)
    damaged, problem = sorted(findings.problems, key=lambda problem: path in problem.problem)
    assert "wrong checksum" in damaged.problem
    assert problem.problem == f"store {full.shown}: cannot read {path} (Permission denied)"
    assert problem.advice == "see to it that you may read it"
    verify(full, repair=True)
    monkeypatch.undo()
    assert full.has_member(DIGESTS[2])


@pytest.mark.parametrize("address", ["folder"], indirect=True)
def test_a_folder_in_the_place_of_a_members_pointer_is_named(full):
    path = f"members/{DIGESTS[0]}/member.json"
    full.files.delete(path)
    os.mkdir(f"{full.address}/{path}")
    (problem,) = verify(full).problems
    assert problem == (
        f"store {full.shown}: cannot read {path} (Is a directory)",
        "move that folder away",
    )


@pytest.mark.parametrize("path", [EPISODES, "runs/my run/wanted.json", "searches/lr/wanted.json"])
@pytest.mark.parametrize("address", ["folder"], indirect=True)
def test_nothing_is_removed_while_a_table_may_not_be_read(full, path, monkeypatch):
    full.write_trials("lr", {"digests": [[]]})
    before = everything(full)
    refuse(monkeypatch, errno.EACCES, path)
    with pytest.raises(UserError, match=f"read {path} .*denied.; see to it that you may read it$"):
        collect(full, remove=True, now=LATER)
    assert everything(full) == before


@pytest.mark.parametrize("address", ["folder"], indirect=True)
def test_a_store_that_fails_as_a_whole_is_one_error(full, monkeypatch):
    store = Store(full.address, patience_s=0)
    refuse(monkeypatch, errno.EIO, "")
    for use in (verify, Store.runs, lambda store: collect(store, remove=False)):
        with pytest.raises(StoreFailed, match="Input/output error, tried for 0 s"):
            use(store)


# ---- collect


def names(garbage):
    return sorted(piece.what for piece in garbage)


def everything(store):
    tops = ("members", "progress", "runs", "searches")
    return sorted(entry.path for top in tops for entry in store.files.list(top))


def test_what_is_younger_than_a_day_stays(full):
    before = everything(full)
    assert collect(full, remove=True) == []
    assert everything(full) == before


def test_what_nobody_refers_to_is_listed_and_then_removed(full):
    before = everything(full)
    listed = collect(full, remove=False, now=LATER)
    assert names(listed) == [f"checkpoint of member {'f' * 64}", f"member {DIGESTS[2]}"]
    assert everything(full) == before
    assert collect(full, remove=True, now=LATER) == listed
    gone = {path for piece in listed for path in piece.paths}
    assert everything(full) == sorted(set(before) - gone)
    assert len(gone) == 4
    assert collect(full, remove=True, now=LATER) == []
    assert verify(full).problems == []


def test_a_members_pointer_goes_first(full):
    (member,) = (piece for piece in collect(full, remove=False, now=LATER) if piece.paths[1:])
    assert member.paths[0].endswith("/member.json")


def test_what_a_run_under_way_wants_stays(full):
    full.write_wanted("runs/another", [DIGESTS[2], "f" * 64])
    assert collect(full, remove=False, now=LATER) == []
    full.clear_wanted("runs/another")
    assert len(collect(full, remove=False, now=LATER)) == 2


def test_what_a_search_refers_to_stays(full):
    full.write_wanted("searches/lr", ["f" * 64])
    columns = {"digests": [["x", DIGESTS[2]], []], "loss": [1.0, 2.0]}
    full.files.replace("searches/lr/trials.parquet", table_to_bytes(columns))
    assert collect(full, remove=False, now=LATER) == []


def test_members_of_a_removed_run_go(full):
    full.remove("runs/my run")
    collect(full, remove=True, now=LATER)
    assert everything(full) == []


@pytest.mark.parametrize(
    "path",
    [
        *("runs/my run/episodes.parquet", "runs/x/wanted.json"),
        *("searches/x/trials.parquet", "searches/x/wanted.json"),
    ],
)
def test_nothing_is_removed_while_a_table_cannot_be_read(full, path):
    full.files.replace(path, b"?")
    before = everything(full)
    with pytest.raises(UserError, match=path):
        collect(full, remove=True, now=LATER)
    assert everything(full) == before


def test_what_publications_left_behind_goes(full):
    full.publish_member(SPECS[0], toy_member(seed=9), call="loser")  # its payloads are unused
    full.drop_member(DIGESTS[2])  # payloads without a pointer
    full.write_checkpoint(DIGESTS[1], checkpoint())  # of a finished member
    found = collect(full, remove=True, now=LATER)
    assert names(found) == [
        f"checkpoint of member {DIGESTS[1]}",
        f"checkpoint of member {'f' * 64}",
        f"unpublished files of member {DIGESTS[2]}",
        f"unused files of member {DIGESTS[0]}",
    ]
    assert verify(full).problems == []
    assert full.read_weights(DIGESTS[0])["a"].tobytes() == toy_member(seed=0).weights["a"].tobytes()


def test_a_checkpoint_of_a_finished_member_goes_at_once(full):
    full.write_checkpoint(DIGESTS[1], checkpoint())
    assert names(collect(full, remove=False)) == [f"checkpoint of member {DIGESTS[1]}"]


def test_writes_that_never_ended_go(tmp_path, folder_store):
    folder_store.create_run("run", toy_record())
    leftover = tmp_path / "store/runs/run" / f".{'0' * 32}.part"
    leftover.write_bytes(b"half")
    assert collect(folder_store, remove=True) == []
    assert names(collect(folder_store, remove=True, now=LATER)) == ["a write that never ended"]
    assert not leftover.exists()
