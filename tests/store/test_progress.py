"""Checkpoints, records that never shorten, and what gets in each other's way."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from toys import toy_member, toy_record, toy_spec, toy_tables

from zoo_ray.members.member import Checkpoint
from zoo_ray.replay import drop
from zoo_ray.store import CorruptMember, Store

ROOT = Path(__file__).parents[2]
SPEC = toy_spec()
DIGEST = SPEC.digest
POINTER = f"members/{DIGEST}/member.json"


def checkpoint(step, seed=0):
    rng = np.random.default_rng(seed)
    return Checkpoint(
        step=step,
        epoch_losses=[0.1, 1 / 3, 5e-324, 1e308, float("inf")],
        arrays={
            "weight": rng.normal(size=(3, 4)).astype(np.float32),
            "turned": np.asfortranarray(rng.normal(size=(3, 4)).astype(np.float32)),
            "one number": np.array(7, np.int64),
            "none": np.zeros((0, 2), np.float32),
            "nan": np.array([np.nan, -0.0], np.float32),
        },
        hardware={"device": "toy", "torch": "0"},
    )


def same(left, right):
    assert (left.step, left.epoch_losses) == (right.step, right.epoch_losses)
    assert left.arrays.keys() == right.arrays.keys()
    for name, array in left.arrays.items():
        other = right.arrays[name]
        assert (array.dtype, array.shape) == (other.dtype, other.shape)
        assert array.tobytes() == other.tobytes()
    return True


def paths(store, prefix="progress"):
    return sorted(entry.path for entry in store.files.list(prefix))


# ---- checkpoints


def test_a_checkpoint_is_read_bit_for_bit_as_it_was_written(store):
    assert store.read_checkpoint(DIGEST) is None
    store.write_checkpoint(DIGEST, checkpoint(12))
    assert same(store.read_checkpoint(DIGEST), checkpoint(12))
    assert store.read_checkpoint("0" * 64) is None


def test_the_checkpoint_of_the_most_steps_is_what_stays(store):
    for step in (2, 10, 9):  # the last from a worker that lags behind
        store.write_checkpoint(DIGEST, checkpoint(step, seed=step))
    assert same(store.read_checkpoint(DIGEST), checkpoint(10, seed=10))
    assert len(paths(store)) == 2
    store.write_checkpoint(DIGEST, checkpoint(1_000_000_000_000))
    assert len(paths(store)) == 1
    assert store.read_checkpoint(DIGEST).step == 1_000_000_000_000


@pytest.mark.parametrize(
    "damage",
    [lambda payload: payload[:-1], lambda payload: payload[:-1] + b"?", lambda _: b""],
    ids=["truncated", "flipped", "empty"],
)
def test_a_corrupt_checkpoint_is_named_and_the_one_before_is_read(store, damage, caplog):
    store.write_checkpoint(DIGEST, checkpoint(5))
    (before,) = paths(store)
    payload = store.files.read(before)
    store.write_checkpoint(DIGEST, checkpoint(6))
    (last,) = paths(store)
    store.files.replace(before, payload)
    store.files.replace(last, damage(store.files.read(last)))
    with caplog.at_level(logging.WARNING, "zoo_ray"):
        assert same(store.read_checkpoint(DIGEST), checkpoint(5))
    assert f"{store.shown}/{last}: wrong checksum" in caplog.text
    assert paths(store) == [before]


def test_another_specs_checkpoint_is_not_read(store):
    store.write_checkpoint("0" * 64, checkpoint(5))
    (path,) = paths(store)
    moved = path.replace("0" * 64, DIGEST)
    store.files.replace(moved, store.files.read(path))
    assert store.read_checkpoint(DIGEST) is None


def test_checkpoints_go_when_the_member_is_published(store):
    store.write_checkpoint(DIGEST, checkpoint(5))
    store.write_checkpoint("0" * 64, checkpoint(5))
    store.publish_member(SPEC, toy_member(), call="test")
    assert store.read_checkpoint(DIGEST) is None
    assert [path.split("/")[1] for path in paths(store)] == ["0" * 64]
    store.drop_checkpoints("0" * 64)
    store.drop_checkpoints("0" * 64)
    assert paths(store) == []


# ---- two who find the same member corrupt


def make_corrupt(store):
    store.publish_member(SPEC, toy_member(), call="test")
    (path,) = (path for path in paths(store, "members") if "predictions-" in path)
    store.files.replace(path, b"?")


def test_who_found_a_member_corrupt_does_not_drop_the_one_published_since(store):
    make_corrupt(store)
    errors = []
    for _ in range(2):
        with pytest.raises(CorruptMember) as caught:
            store.read_predictions(DIGEST)
        errors.append(caught.value)
    store.drop_member(DIGEST, seen=errors[0].pointer)
    store.publish_member(SPEC, toy_member(seed=1), call="again")
    store.drop_member(DIGEST, seen=errors[1].pointer)
    assert store.read_predictions(DIGEST).call == "again"


def test_readers_that_drop_and_fit_again_at_once_end_with_a_whole_member(store):
    make_corrupt(store)
    gate = threading.Barrier(3)

    def mend(seed):
        gate.wait()
        try:
            found = store.read_predictions(DIGEST)
        except CorruptMember as error:
            drop(store, DIGEST, error)
            found = None
        if found is None:
            store.publish_member(SPEC, toy_member(seed=seed), call=str(seed))

    threads = [threading.Thread(target=mend, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = store.read_predictions(DIGEST)
    winner = toy_member(seed=int(stored.call))
    np.testing.assert_array_equal(stored.predictions[0]["train"], winner.predictions[0]["train"])
    np.testing.assert_array_equal(store.read_weights(DIGEST)["a"], winner.weights["a"])


PUBLISH = """
import sys
sys.path.insert(0, "tests")
from toys import toy_member, toy_spec
from zoo_ray.store import Store
store = Store(sys.argv[1])
for number in range(15):
    store.publish_member(toy_spec(seed=number), toy_member(seed=int(sys.argv[2])), call="test")
"""


def test_readers_during_publication_see_whole_members_or_none(store):
    publishers = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISH, store.address, seed],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": "."},
        )
        for seed in "01"
    ]
    digests = [toy_spec(seed=number).digest for number in range(15)]
    found: set[str] = set()
    while any(publisher.poll() is None for publisher in publishers):
        for digest in digests:
            # Raises CorruptMember if anything is torn.
            weights, predictions = store.read_weights(digest), store.read_predictions(digest)
            if weights is not None:
                found.add(digest)
            assert not (digest in found and predictions is None)
    assert [publisher.returncode for publisher in publishers] == [0, 0]
    assert all(store.has_member(digest) for digest in digests)


# ---- runs


def test_a_runs_record_gets_longer_and_never_shorter(store):
    assert store.create_run("run", toy_record(2)) == toy_record(2)
    assert store.create_run("run", toy_record(5)) == toy_record(2)
    assert store.lengthen_run("run", toy_record(4)) == toy_record(4)
    assert store.lengthen_run("run", toy_record(3)) == toy_record(4)
    assert store.read_run("run") == toy_record(4)


def columns(episodes, mark="x"):
    return toy_tables([f"{number:064x}" for number in range(episodes)], mark=mark)


def test_tables_are_not_replaced_by_those_of_fewer_episodes(store):
    for episodes, mark, stays in ((3, "a", "a"), (2, "b", "a"), (3, "c", "c"), (4, "d", "d")):
        store.write_results("run", **columns(episodes, mark))
        for file in ("episodes.parquet", "results.parquet"):
            assert set(store.read_table("run", file)["mark"]) == {stays}
    assert store.read_table("run", "episodes.parquet")["episode"] == [1, 2, 3, 4]


def test_a_run_without_episodes_has_tables_too(store):
    store.write_results("run", **columns(0))
    assert store.read_table("run", "results.parquet") == {"episode": [], "mark": []}
    store.write_results("run", **columns(1))
    assert store.read_table("run", "results.parquet")["episode"] == [1]


def test_a_torn_table_is_written_anew(store, caplog):
    store.write_results("run", **columns(3))
    store.files.replace("runs/run/episodes.parquet", b"PAR1")
    store.write_results("run", **columns(2))
    assert store.read_table("run", "episodes.parquet")["episode"] == [1, 2]
    assert store.read_table("run", "results.parquet")["episode"] == [1, 2, 3]
    assert "runs/run/episodes.parquet: not a table" in caplog.text


LENGTHEN = """
import sys
sys.path.insert(0, "tests")
from toys import toy_record, toy_tables
from zoo_ray.store import Store
store = Store(sys.argv[1])
for number in range(int(sys.argv[2]), 12, 2):
    store.lengthen_run("run", toy_record(number))
    store.write_results("run", **toy_tables(["x"] * number))
"""


def test_of_two_processes_the_longer_record_stays(store):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LENGTHEN, store.address, first],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": "."},
        )
        for first in "01"
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert store.read_run("run") == toy_record(11)
    assert max(store.read_table("run", "episodes.parquet")["episode"]) == 11


def test_what_a_run_wants_is_kept_while_it_runs(store):
    assert store.read_wanted("runs/run") == []
    store.write_wanted("runs/run", ["b", "a"])
    assert store.read_wanted("runs/run") == ["b", "a"]
    store.clear_wanted("runs/run")
    store.clear_wanted("runs/run")
    assert store.read_wanted("runs/run") == []


def test_runs_are_listed_with_what_they_hold(store):
    assert store.runs() == []
    store.create_run("b run", toy_record(3))
    store.write_results("b run", **columns(2))
    store.create_run("a", toy_record(1))
    store.files.replace("runs/torn/run.json", b"{")
    store.write_wanted("runs/bare", [])
    found = {run.name: run for run in store.runs()}
    assert list(found) == ["a", "b run", "bare", "torn"]
    whole = found["b run"]
    assert (whole.record, whole.episodes, whole.members) == (toy_record(3), 2, 2)
    assert whole.problem is None
    assert whole.size_bytes == sum(entry.size_bytes for entry in store.files.list("runs/b run"))
    assert found["a"].episodes == 0
    assert found["bare"].problem == "run.json is missing"
    assert "not a record that this zoo_ray can read" in found["torn"].problem


# ---- many


@pytest.mark.parametrize("kind", ["folder", pytest.param("s3", marks=pytest.mark.slow)])
def test_ten_thousand_members_are_listed(kind, request, tmp_path):
    if kind == "folder":
        store = Store(str(tmp_path))
        for number in range(10_000):
            folder = tmp_path / "members" / f"{number:064x}"
            folder.mkdir(parents=True)
            for name in ("member.json", "weights-0.safetensors", "predictions-0.arrow"):
                (folder / name).write_bytes(b"12345")
    else:
        store = Store(request.getfixturevalue("s3_address"))

        async def put(numbers):
            for number in numbers:
                path = f"members/{number:064x}/member.json"
                await store.files._bucket.put_async(path, b"123456789012345")

        async def put_all():
            await asyncio.gather(*(put(range(first, 10_000, 50)) for first in range(50)))

        asyncio.run(put_all())
    members = list(store.members())
    assert sorted(member.digest for member in members) == [f"{n:064x}" for n in range(10_000)]
    assert {member.size_bytes for member in members} == {15}
