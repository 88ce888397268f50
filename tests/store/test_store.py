import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys import toy_member, toy_record, toy_spec

from zoo_ray.errors import UserError
from zoo_ray.members.spec import digest_of
from zoo_ray.store import CorruptMember, Store, check_name, run_folder
from zoo_ray.store.payloads import sealed, to_json
from zoo_ray.store.upkeep import verify
from zoo_ray.task import PARTS

ROOT = Path(__file__).parents[2]
SPEC = toy_spec()
MEMBER = toy_member()
POINTER = f"members/{SPEC.digest}/member.json"


def paths(store, prefix="members"):
    return sorted(entry.path for entry in store.files.list(prefix))


def payload_path(store, kind):
    (path,) = (path for path in paths(store) if path.rpartition("/")[2].startswith(f"{kind}-"))
    return path


def files(store):
    """Names of all files, hidden ones too."""
    if store.address.startswith("s3:"):
        return [path for top in ("members", "progress", "runs") for path in paths(store, top)]
    return sorted(p.name for p in Path(store.address).rglob("*") if p.is_file())


def same_bits(left, right):
    return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


def edit(store, change):
    """Rewrite the member's pointer as a function of what it holds."""
    document = json.loads(store.files.read(POINTER))
    change(document)
    del document["checksum"]
    store.files.replace(POINTER, to_json(sealed(document)))


# ---- members


@pytest.mark.parametrize(
    ("classes", "sizes"),
    [((2,), (5, 3, 4)), ((2,), (5, 0, 3)), ((1,), (4, 0, 1)), ((3, 1, 7), (6, 2, 2))],
    ids=["one task", "no validation", "one class", "unequal classes"],
)
def test_a_member_is_read_bit_for_bit_as_it_was_published(store, classes, sizes):
    spec, member = toy_spec(classes=classes), toy_member(classes=classes, sizes=sizes)
    store.publish_member(spec, member, call="test")
    stored = store.read_predictions(spec.digest)
    assert len(stored.predictions) == len(member.predictions)
    for read, published in zip(stored.predictions, member.predictions, strict=True):
        assert tuple(read) == PARTS
        assert all(same_bits(read[part], published[part]) for part in PARTS)
    weights = store.read_weights(spec.digest)
    assert weights.keys() == member.weights.keys()
    assert all(same_bits(weights[name], array) for name, array in member.weights.items())


def test_predictions_in_another_memory_order_are_stored_all_the_same(store):
    turned = toy_member(classes=(3,))
    for part, array in turned.predictions[0].items():
        turned.predictions[0][part] = np.asfortranarray(array)
    store.publish_member(toy_spec(classes=(3,)), turned, call="test")
    read = store.read_predictions(toy_spec(classes=(3,)).digest).predictions[0]["train"]
    np.testing.assert_array_equal(read, turned.predictions[0]["train"])


def test_a_member_exists_once_its_pointer_does(store):
    assert not store.has_member(SPEC.digest)
    assert store.read_predictions(SPEC.digest) is None
    assert store.read_weights(SPEC.digest) is None
    store.publish_member(SPEC, MEMBER, call="test")
    assert store.has_member(SPEC.digest)
    store.files.delete(POINTER)
    assert not store.has_member(SPEC.digest)
    assert store.read_predictions(SPEC.digest) is None


def test_the_pointer_says_what_the_member_is(store):
    store.publish_member(SPEC, MEMBER, call="test")
    pointer = json.loads(store.files.read(POINTER))
    assert pointer["spec"] == json.loads(json.dumps(SPEC.to_dict()))
    assert (pointer["epoch_losses"], pointer["fit_s"]) == ([0.5, 0.25], 1.25)
    assert pointer["hardware"] == {"device": "toy", "torch": "0"}
    for kind in ("weights", "predictions"):
        payload = store.files.read(f"members/{SPEC.digest}/{pointer[kind]['name']}")
        assert len(payload) == pointer[kind]["size"]
        assert hashlib.sha256(payload).hexdigest() == pointer[kind]["sha256"]


def test_the_checksum_names_the_predictions(store):
    other = toy_spec(seed=1)
    store.publish_member(SPEC, MEMBER, call="test")
    store.publish_member(
        other, replace(MEMBER, weights={"a": np.zeros(1, np.float32)}), call="test"
    )
    sums = [store.read_predictions(spec.digest).sha256 for spec in (SPEC, other)]
    assert sums[0] == sums[1]


def test_the_second_publication_loses_whole(store):
    store.publish_member(SPEC, MEMBER, call="test")
    before = store.files.read(POINTER)
    sha256 = store.read_predictions(SPEC.digest).sha256
    store.publish_member(SPEC, toy_member(seed=1), call="test")
    assert store.files.read(POINTER) == before
    assert store.read_predictions(SPEC.digest).sha256 == sha256
    assert same_bits(store.read_weights(SPEC.digest)["a"], MEMBER.weights["a"])


def test_nothing_but_whole_files_is_left(store):
    for member in (MEMBER, MEMBER, toy_member(seed=1)):
        store.publish_member(SPEC, member, call="test")
    store.lengthen_run("run", toy_record())
    store.lengthen_run("run", toy_record())
    names = files(store)
    assert not [name for name in names if name.endswith(".part") or name.startswith(".")]
    for last in ("member.json", "run.json"):
        assert sum(name.endswith(last) for name in names) == 1


def test_a_dropped_member_is_missing_and_can_be_published_again(store):
    store.publish_member(SPEC, MEMBER, call="test")
    store.drop_member(SPEC.digest)
    assert not store.has_member(SPEC.digest)
    store.publish_member(SPEC, toy_member(seed=1), call="test")
    assert same_bits(store.read_weights(SPEC.digest)["a"], toy_member(seed=1).weights["a"])


def test_a_member_may_be_dropped_by_several_who_saw_it_corrupt(store):
    store.publish_member(SPEC, MEMBER, call="test")
    store.drop_member(SPEC.digest)
    store.drop_member(SPEC.digest)
    assert not store.has_member(SPEC.digest)


PUBLISHER = """
import sys
sys.path.insert(0, "tests")
from toys import toy_member, toy_record, toy_spec
from zoo_ray.store import Store
store = Store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for seed in range(8):
    store.publish_member(toy_spec(seed=seed), toy_member(seed=int(sys.argv[2])), call="test")
"""


def test_of_two_processes_that_publish_at_once_one_wins_whole(store):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, store.address, number],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": "."},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in "01"
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    candidates = [toy_member(seed=seed) for seed in (0, 1)]
    for seed in range(8):
        digest = toy_spec(seed=seed).digest
        weights = store.read_weights(digest)
        winner = next(c for c in candidates if same_bits(c.weights["a"], weights["a"]))
        read = store.read_predictions(digest).predictions[0]["train"]
        assert same_bits(read, winner.predictions[0]["train"])
    assert not [name for name in files(store) if name.endswith(".part")]


# ---- corruption


def read_both(store):
    store.read_predictions(SPEC.digest)
    store.read_weights(SPEC.digest)


@pytest.fixture
def published(store):
    store.publish_member(SPEC, MEMBER, call="test")
    return store


def flip(payload):
    return payload[:-9] + bytes([payload[-9] ^ 1]) + payload[-8:]


@pytest.mark.parametrize("kind", ["weights", "predictions"])
@pytest.mark.parametrize(
    "damage",
    [flip, lambda payload: payload[:-1], lambda payload: payload + b"x", lambda _: b"", None],
    ids=["flipped bit", "truncated", "longer", "empty", "missing"],
)
def test_a_damaged_payload_is_named_and_heals_when_it_is_fitted_again(published, kind, damage):
    path = payload_path(published, kind)
    if damage is None:
        published.files.delete(path)
    else:
        published.files.replace(path, damage(published.files.read(path)))
    with pytest.raises(CorruptMember) as caught:
        read_both(published)
    assert f"{published.shown}/{path}" in str(caught.value)
    published.drop_member(SPEC.digest, seen=caught.value.pointer)
    assert not published.has_member(SPEC.digest)
    published.publish_member(SPEC, MEMBER, call="again")
    read_both(published)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"null", b'"text"', b"\xff\xfe", b"{}", b'{"spec": 3}', b"[" * 10**5],
    ids=["empty", "torn", "list", "number", "null", "text", "binary", "keys", "spec", "deep"],
)
def test_a_pointer_that_is_none_is_named(published, content):
    published.files.replace(POINTER, content)
    for read in (published.read_predictions, published.read_weights):
        with pytest.raises(CorruptMember) as caught:
            read(SPEC.digest)
        assert f"{published.shown}/{POINTER}" in str(caught.value)
        assert caught.value.pointer == content


@pytest.mark.parametrize("key", ["spec", "epoch_losses", "fit_s", "hardware", "call", "checksum"])
def test_a_pointer_that_was_changed_is_named(published, key):
    pointer = json.loads(published.files.read(POINTER))
    published.files.replace(POINTER, json.dumps(pointer | {key: pointer["call"]}).encode())
    if key == "call":
        published.files.replace(POINTER, json.dumps(pointer | {key: "another"}).encode())
    with pytest.raises(CorruptMember, match="wrong checksum") as caught:
        read_both(published)
    assert POINTER in str(caught.value)


def test_a_pointer_with_another_members_spec_is_named(published):
    edit(published, lambda pointer: pointer["spec"].update(seed=1))
    with pytest.raises(CorruptMember, match=POINTER):
        published.read_predictions(SPEC.digest)


def test_a_newer_members_recipe_is_not_taken_for_corrupt(store):
    newer = SPEC.to_dict()
    newer["recipe"]["newer_key"] = 1
    digest = digest_of(newer)
    store.publish_member(SPEC, MEMBER, call="c")
    for name in store.files.list(f"members/{SPEC.digest}"):
        store.files.replace(
            name.path.replace(SPEC.digest, digest), store.files.read(name.path) or b""
        )
    path = f"members/{digest}/member.json"
    pointer = json.loads(store.files.read(path)) | {"spec": newer}
    del pointer["checksum"]
    store.files.replace(path, to_json(sealed(pointer)))
    assert store.read_predictions(digest) is not None
    assert verify(store, repair=True).problems == []
    with pytest.raises(UserError, match=f"{path}: its recipe has keys that this zoo_ray does not"):
        store.read_network(digest)


@pytest.mark.parametrize(
    "name",
    ["a/b", "../x", "/etc/passwd", "..", ".", "", "a\0b", "x" * 300, "\ud800", None, 5],
    ids=lambda name: ascii(name)[:20],
)
def test_a_pointer_leads_to_nothing_but_a_file_beside_it(published, name):
    edit(published, lambda pointer: pointer["weights"].update(name=name))
    with pytest.raises(CorruptMember, match=POINTER):
        published.read_weights(SPEC.digest)


def test_a_pointer_of_another_format_is_not_read(published):
    edit(published, lambda pointer: pointer.update(format_version=2))
    with pytest.raises((CorruptMember, UserError)):
        published.read_predictions(SPEC.digest)


# ---- runs

RECORD = toy_record().model_dump()


def test_a_run_is_read_as_it_was_written(store):
    assert store.read_run("run") is None
    store.lengthen_run("run", toy_record())
    assert store.read_run("run") == toy_record()
    written = json.loads(store.files.read("runs/run/run.json"))
    assert written == RECORD


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"{}",
        json.dumps(RECORD | {"format_version": 2}).encode(),
        json.dumps(RECORD | {"format_version": "1"}).encode(),
        json.dumps(RECORD | {"tasks": 3}).encode(),
    ],
    ids=["empty", "torn", "list", "binary", "no keys", "version 2", "version as text", "tasks"],
)
def test_a_record_that_cannot_be_read_is_named(store, content):
    store.lengthen_run("run", toy_record())
    store.files.replace("runs/run/run.json", content)
    for use in (store.read_run, lambda name: store.lengthen_run(name, toy_record())):
        with pytest.raises(UserError) as caught:
            use("run")
        assert f"{store.shown}/runs/run/run.json" in str(caught.value)
        assert "\n" not in str(caught.value)
    (listed,) = store.runs()
    assert (listed.name, listed.record) == ("run", None)
    assert "run.json" in listed.problem


def test_files_are_replaced_whole(store):
    for content in (b"first, and longer", b"png"):
        path = store.write_file("runs/run", "report/figure.png", content)
    assert path == f"{store.shown}/runs/run/report/figure.png"
    assert store.files.read("runs/run/report/figure.png") == b"png"


HOSTILE = [
    *(
        "",
        ".",
        "..",
        "a/b",
        "/",
        "a\\b",
        "a\nb",
        "\n",
        "\t",
        "a\0b",
        "\x1b[31m",
        "\u202e",
        "\ud800",
    ),
    *("x" * 101, "x" * 300, "é" * 51),
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:20])
def test_names_that_are_no_folders_name_are_refused_in_one_line(store, name):
    for use in (check_name, store.read_run, lambda n: store.lengthen_run(n, toy_record())):
        with pytest.raises(UserError) as caught:
            use(name)
        assert "\n" not in str(caught.value)
    assert files(store) == []


@pytest.mark.parametrize(
    "name",
    [
        *("a", "my run", "v1.2", ".hidden", "a..b", "Zoo-1_2", "日本語", "naïve é", "x" * 100, "~"),
        *("100%", "a%20b", "a+b", "a#b", "a?b=c&d", "'", '"', "s3:", "*"),
    ],
)
def test_other_names_are_fine(store, name):
    store.lengthen_run(name, toy_record())
    store.write_wanted(run_folder(name), ["x"])
    assert store.read_run(name) == toy_record()
    assert store.read_wanted(run_folder(name)) == ["x"]
    assert [run.name for run in store.runs()] == [name]
    assert store.remove(run_folder(name)) == 2
    assert store.runs() == []


# ---- addresses


@pytest.mark.parametrize("below", ["", "/below", "/far/below"])
def test_a_store_that_cannot_be_written_is_an_error_of_one_line(tmp_path, below):
    (tmp_path / "file").write_text("not a folder")
    store = Store(f"{tmp_path}/file{below}")
    assert store.read_run("run") is None
    assert not store.has_member(SPEC.digest)
    for write in (
        lambda: store.publish_member(SPEC, MEMBER, call="test"),
        lambda: store.lengthen_run("run", toy_record()),
    ):
        with pytest.raises(UserError, match="--store") as caught:
            write()
        assert str(tmp_path / "file") in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_an_error_of_one_line(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot write"):
        Store(f"{tmp_path}/locked/store").lengthen_run("run", toy_record())


def test_addresses_are_absolute_whatever_the_folder_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Store("zoo store").address == str(tmp_path / "zoo store")
    assert Store("~/zoo").address == str(tmp_path / "home/zoo")
    assert Store("C:zoo").address == str(tmp_path / "C:zoo")


def test_a_store_is_created_by_its_first_file_and_not_before(tmp_path):
    store = Store(str(tmp_path / "store"))
    store.read_run("run")
    assert not (tmp_path / "store").exists()
    store.publish_member(SPEC, MEMBER, call="test")
    assert (tmp_path / "store/members" / SPEC.digest / "member.json").is_file()
