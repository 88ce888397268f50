"""The commands that look after a store."""

import json
import os

import pytest
from toys import toy_member, toy_record, toy_spec, toy_tables

import run_cluster
from zoo_ray.store import Store

DIGESTS = [toy_spec(seed=seed).digest for seed in range(2)]


@pytest.fixture
def full(tmp_path):
    """Two members, of which `my run` refers to the first; all is two days old."""
    store = Store(str(tmp_path / "zoo"))
    for seed in range(2):
        store.publish_member(toy_spec(seed=seed), toy_member(), call="test")
    store.create_run("my run", toy_record())
    store.write_results("my run", **toy_tables(DIGESTS[:1]))
    age(tmp_path)
    return store


def age(folder):
    for path in folder.rglob("*"):
        os.utime(path, (path.stat().st_mtime - 2 * 86400,) * 2)


@pytest.fixture
def said(capfd, monkeypatch):
    """Runs a command with --json; its exit code, its object, and what it says to people."""
    monkeypatch.setenv("COLUMNS", "500")

    def run(*argv):
        code = run_cluster.main([*argv, "--json"])
        out, err = capfd.readouterr()
        assert out.count("\n") == 1
        return code, json.loads(out), err

    return run


def test_a_sound_store_verifies(full, said):
    code, result, err = said("verify", full.address)
    assert code == 0
    assert result == {
        "store": full.address,
        "members": 2,
        "runs": 1,
        "checkpoints": 0,
        "problems": [],
    }
    assert "all sound" in err


def test_a_damaged_store_does_not(full, said):
    path = f"members/{DIGESTS[1]}/member.json"
    full.files.replace(path, b"{")
    code, result, err = said("verify", full.address)
    assert code == 1
    (problem,) = result["problems"]
    assert problem["problem"] == f"{full.address}/{path}: not a member's pointer"
    assert problem["advice"] in err


def test_a_run_whose_record_cannot_be_read_is_named_and_the_others_are_listed(full, said):
    full.create_run("odd", toy_record())
    full.files.delete("runs/odd/run.json")
    full.files.replace("runs/odd/run.json/file", b"")
    why = f"store {full.address}: cannot read runs/odd/run.json (Is a directory)"
    code, result, err = said("verify", full.address)
    assert code == 1
    assert result["problems"] == [{"problem": why, "advice": "move that folder away"}]
    code, result, err = said("runs", full.address)
    assert (code, [run["name"] for run in result["runs"]]) == (0, ["my run", "odd"])
    assert result["runs"][1]["problem"] == f"{why}; move that folder away"
    assert why in err
    assert said("gc", full.address)[0] == 0  # which needs no record


def test_runs_are_listed(full, said):
    full.files.replace("runs/[torn]/run.json", b"{")
    code, result, err = said("runs", full.address)
    assert code == 0
    torn, whole = result["runs"]
    assert (whole["name"], whole["episodes"], whole["members"]) == ("my run", 1, 1)
    assert whole["record"]["zoo"] == {"seed": 0}
    assert (torn["name"], torn["record"]) == ("[torn]", None)
    assert f"[torn]: {full.address}/runs/[torn]/run.json: not a record" in "".join(err.split("\n"))


@pytest.mark.usefixtures("full")
def test_the_default_store_is_that_of_the_configuration(said, tmp_path, monkeypatch):
    (tmp_path / "zoo").rename(tmp_path / "zoo_store")
    monkeypatch.chdir(tmp_path)
    assert len(said("runs")[1]["runs"]) == 1
    assert said("rm", "my run")[1]["files"] == 3
    assert said("runs")[1]["runs"] == []


def test_a_run_is_removed_and_its_members_stay(full, said):
    code, result, _ = said("rm", "my run", "--store", full.address)
    assert (code, result["run"], result["files"]) == (0, "my run", 3)
    assert full.read_run("my run") is None
    assert all(full.has_member(digest) for digest in DIGESTS)


@pytest.fixture
def study(full):
    """A comparison in the store, with two runs of its own, one of them gone, and a search."""
    for run in ("study.continual.0", "study"):
        full.create_run(run, toy_record())
    contender = {"name": "continual", "mode": "continual", "members": 1, "images": 1}
    contender["runs"] = ["study.continual.0", "study.continual.1", "my run"]
    record = {"format_version": 1, "contenders": [contender]}
    full.write_file("comparisons/study", "comparison.json", json.dumps(record).encode())
    full.write_wanted("searches/lr", [])
    return full


def test_searches_and_comparisons_are_listed_too(study, said):
    _, result, err = said("runs", study.address)
    assert [run["name"] for run in result["runs"]] == ["my run", "study", "study.continual.0"]
    assert [it["name"] for it in result["comparisons"]] == ["study"]
    assert [(it["kind"], it["name"]) for it in result["searches"]] == [("searches", "lr")]
    assert "study (comparison)" in err
    study.write_file("comparisons/pairs", "competition.json", b"{}")
    assert "pairs (competition study)" in said("runs", study.address)[2]


def test_a_comparison_is_removed_with_the_runs_that_are_its_own(study, said, capfd):
    argv = ["rm", "study", "--store", study.address]
    assert run_cluster.main(argv) == 2
    assert "a run and a comparison; give --kind with one of run" in capfd.readouterr().err
    _, result, err = said(*argv, "--kind", "comparison")
    runs = ["study.continual.0", "study.continual.1"]
    assert (result["kind"], result["runs"], result["files"]) == ("comparison", runs, 2)
    assert "comparison study and its 2 runs: 2 files removed" in err
    assert [run.name for run in study.runs()] == ["my run", "study"]
    assert said("rm", "lr", "--store", study.address)[1]["kind"] == "search"
    assert said("rm", "study", "--store", study.address)[1]["kind"] == "run"
    assert said("verify", study.address)[0] == 0


def test_of_an_older_stores_two_records_both_lose_their_runs(study, said):
    record = {"format_version": 1, "tasks": ["a", "b"], "seeds": [3], "alone": [0.5, 0.5]}
    record |= {"gain": (gain := [[None, 0], [0, None]]), "gain_by_seed": [gain]}
    record["together"] = [[0.5, None], [0.5, 0.5]]
    for run in ("study.pairs.3", "study.own"):
        study.create_run(run, toy_record())
    study.write_file("comparisons/study", "competition.json", json.dumps(record).encode())
    said("rm", "study", "--kind", "comparison", "--store", study.address)
    assert [run.name for run in study.runs()] == ["my run", "study", "study.own"]


def test_a_comparison_that_cannot_be_read_is_removed_alone(study, said):
    study.write_file("comparisons/study", "comparison.json", b"{")
    _, result, _ = said("rm", "study", "--kind", "comparison", "--store", study.address)
    assert (result["runs"], result["files"]) == ([], 1)


def test_garbage_is_removed_with_yes_alone(full, said):
    code, result, err = said("gc", full.address)
    assert code == 0
    assert [piece["what"] for piece in result["garbage"]] == [f"member {DIGESTS[1]}"]
    assert not result["removed"]
    assert "--yes removes it" in err
    assert full.has_member(DIGESTS[1])
    assert said("gc", full.address, "--yes")[1]["garbage"] == result["garbage"]
    assert [full.has_member(digest) for digest in DIGESTS] == [True, False]
    assert said("gc", full.address, "--yes")[1]["garbage"] == []


def test_tables_for_people_are_on_stdout(full, capfd):
    for command in (["verify"], ["runs"], ["gc"]):
        assert run_cluster.main([*command, full.address]) == 0
    out, _ = capfd.readouterr()
    for text in ("all sound", "my run", DIGESTS[1][:8]):
        assert text in out


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["verify", "{}/none"], "there is none"),
        (["runs", "{}"], "there is none"),
        (["gc", "{}/none", "--yes"], "there is none"),
        (["rm", "x", "--store", "{}/none"], "there is none"),
        (["rm", "x", "--store", "{}/zoo"], "no run 'x'"),
        (["rm", "../zoo", "--store", "{}/zoo"], "without /"),
        (["runs", "s3://key:SECRET@bucket/x"], "holds no credentials"),
        (["verify", "s4://x"], "no such kind of store"),
    ],
)
@pytest.mark.usefixtures("full")
def test_a_store_or_run_that_is_not_there_is_one_line(argv, part, tmp_path, capfd):
    before = sorted(tmp_path.rglob("*"))
    assert run_cluster.main([word.format(tmp_path) for word in argv]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert part in err
    assert "SECRET@" not in err
    assert sorted(tmp_path.rglob("*")) == before
