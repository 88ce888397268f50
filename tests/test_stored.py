import csv
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from toys import TRUNK, write_idx_dataset

import run_cluster
import zoo_ray
from zoo_ray import own_code
from zoo_ray.config import validate_config
from zoo_ray.errors import UserError
from zoo_ray.plan import plan_run
from zoo_ray.report.page import report_page
from zoo_ray.run import grow
from zoo_ray.store import Store
from zoo_ray.store.upkeep import verify
from zoo_ray.stored import StoredRun
from zoo_ray.zoo.ensemble import Ensemble


def config_of(folder, **zoo):
    if not (folder / "data").exists():
        write_idx_dataset(folder / "data", classes=7, train=6, test=25)
    raw = {
        "benchmark": {
            "dataset": f"idx:{folder / 'data'}",
            "tasks": [["0", "1"], [2, 3, 4], [5, 6]],
        },
        "recipe": {"epochs": 1, "batch": 8},
        "zoo": {"tasks_per_member": 2, **zoo},
        "workers": {"count": 0},
        "store": str(folder / "store"),
    }
    return validate_config(raw, source="test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stored")


@pytest.fixture(scope="module")
def grown(folder):
    config = config_of(folder)
    return zoo_ray.grow(config, name="zoo"), plan_run(config).tasks


def recorded(run, tasks):
    """The averages of the predictions that the members' fits left in the store."""
    ensemble = Ensemble([task.without_images() for task in tasks])
    for member in run.members:
        stored = run._store.read_predictions(member.digest)
        for position, prediction in zip(member.tasks, stored.predictions, strict=True):
            weight = 1.0
            if position in run.rules.newest(member.episode):
                weight = 1 / run.rules.replay
            ensemble.add(position, prediction, weight=weight)
    return [ensemble.prediction(position, "test") for position in range(len(tasks))]


def test_predictions_on_the_test_part_are_those_recorded(grown):
    run, tasks = grown
    for position, expected in enumerate(recorded(run, tasks)):
        predicted = run.predict(images=tasks[position].test.images, task=position + 1)
        np.testing.assert_array_equal(predicted, expected)
        right = predicted.argmax(axis=1) == tasks[position].test.labels
        assert right.mean() == run.accuracy[-1, position]


@pytest.mark.parametrize(
    "zoo",
    [
        {"replay": 0.5, "members_per_episode": 2},
        {"mode": "multihead"},
        {"mode": "multitask", "rounds": 1},
        {"closing_rounds": 1},
    ],
)
def test_other_zoos_predict_as_recorded_too(folder, zoo):
    config = config_of(folder, **zoo)
    run, tasks = zoo_ray.grow(config, name="other"), plan_run(config).tasks
    for position, expected in enumerate(recorded(run, tasks)):
        predicted = run.predict(images=tasks[position].test.images, task=tasks[position].name)
        np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-15)
    run._store.remove("runs/other")


def test_a_run_is_shown_in_one_line(grown):
    run = grown[0]
    accuracy = f"{100 * run.metrics.average_accuracy:.2f}%"
    assert repr(run) == f"run zoo: 3 tasks, 3 members, average accuracy {accuracy}"


def test_a_stored_run_is_what_was_grown(grown, folder):
    run, tasks = grown
    again = zoo_ray.open(str(folder / "store"), "zoo")
    assert again.metrics == run.metrics
    assert [task.name for task in again.tasks] == [task.name for task in tasks]
    assert [task.image_shape for task in again.tasks] == [(28, 28, 1)] * 3
    assert np.isnan(again.accuracy[0, 1:]).all()
    assert not np.isnan(again.accuracy[-1]).any()


def test_isolated_is_found_without_reading_other_runs_tables(folder, grown, monkeypatch):
    run, _ = grown
    store = run._store
    assert run.isolated() is None
    zoo_ray.grow(config_of(folder, mode="isolated"), name="alone")
    zoo_ray.grow(config_of(folder, mode="isolated", seed=1), name="another")
    store.files.replace("runs/torn/run.json", b"{")
    read: list[str] = []
    files = type(store.files)
    really_read = files.read
    monkeypatch.setattr(
        files, "read", lambda self, path: read.append(path) or really_read(self, path)
    )
    assert run.isolated().name == "alone"
    assert [path for path in read if path.endswith(".parquet") and "/alone/" not in path] == []
    # A comparison's runs are told by their names: none else is read.
    zoo_ray.grow(config_of(folder), name="c.continual.0")
    zoo_ray.grow(config_of(folder, mode="isolated"), name="c.isolated.0")
    compared = StoredRun(store, "c.continual.0")
    read.clear()
    assert compared.isolated().name == "c.isolated.0"
    assert {path.split("/")[1] for path in read} == {"c.isolated.0"}


def test_the_package_is_cheap_to_import():
    code = "import sys, zoo_ray; print({'torch', 'ray', 'numpy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
    with pytest.raises(AttributeError, match="no attribute 'shrink'"):
        zoo_ray.shrink  # noqa: B018


# ---- the command


def ask(folder, *words):
    return run_cluster.main(["predict", "zoo", "--store", str(folder / "store"), *map(str, words)])


def test_the_command_reads_files_folders_and_arrays_alike(grown, folder, capsys, tmp_path):
    run, tasks = grown
    images = tasks[1].test.images[:9]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(pictures / f"{number}.png")
    (pictures / "notes.txt").write_text("no image")
    np.savez(tmp_path / "images.npz", images=images[..., 0])
    expected = run.predict(images=images, task=2)
    for given in ([pictures], sorted(pictures.glob("*.png")), [tmp_path / "images.npz"]):
        assert ask(folder, "--task", 2, "--json", *given) == 0
        out = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert out["classes"] == ["2", "3", "4"]
        np.testing.assert_array_equal([p["probabilities"] for p in out["predictions"]], expected)
        classes = [out["classes"][place] for place in expected.argmax(axis=1)]
        assert [p["class"] for p in out["predictions"]] == classes
    for file in ("p.csv", "p.parquet"):
        assert ask(folder, "--task", "2, 3, 4", "--out", tmp_path / file, pictures) == 0
    assert "9 images" not in capsys.readouterr().out
    table = pq.read_table(tmp_path / "p.parquet").to_pydict()
    assert table["class"] == classes
    np.testing.assert_array_equal(table["p: 3"], expected[:, 1])
    with (tmp_path / "p.csv").open() as lines:
        assert [row["class"] for row in csv.DictReader(lines)] == classes


@pytest.mark.usefixtures("grown")
def test_bad_requests_get_one_line(folder, capsys, tmp_path):
    Image.new("L", (40, 30)).save(tmp_path / "large.png")
    Image.new("RGB", (28, 28)).save(tmp_path / "red.png")
    Image.new("L", (28, 28)).save(tmp_path / "good.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.npz").write_bytes(b"PK")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    np.savez(tmp_path / "floats.npz", images=np.zeros((2, 28, 28)))
    for words, told in (
        (["--task", "2", tmp_path / "large.png"], "40x30 pixels, where "),
        (
            ["--task", "2", tmp_path / "red.png"],
            "red.png: a colour image (RGB), while the task's images are grey",
        ),
        (["--task", "2", tmp_path / "torn.png"], "torn.png: the image cannot be decoded"),
        (["--task", "2", tmp_path / "text.png"], "text.png: the image cannot be decoded"),
        (["--task", "2", tmp_path / "empty"], "no images here"),
        (["--task", "2", tmp_path / "nothing"], "no such file or folder"),
        (["--task", "2", tmp_path / "bad.npz"], "not a readable .npz file"),
        (["--task", "2", tmp_path / "bad.parquet"], "not a readable Parquet file"),
        (["--task", "2", tmp_path / "floats.npz"], "allowed is uint8"),
        (["--task", "4", tmp_path / "good.png"], "give the number or the name of one: 1: 0, 1;"),
        (["--task", "7" * 5000, tmp_path / "good.png"], "no such task"),
        (["--task", "\x1b[31mred", tmp_path / "good.png"], "no such task"),
        (["--task", "2", "--out", "x.txt", tmp_path / "good.png"], "ends in .csv or .parquet"),
        (["--task", "2", "--out", "no/x.csv", tmp_path / "nothing"], "(no folder no for it)"),
    ):
        assert ask(folder, *words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert told in err
        assert err.count("\n") == 1
    assert ask(folder, "--task", "2", "--scale", tmp_path / "large.png") == 0


def test_slips_in_python_get_one_line(grown):
    run, tasks = grown
    images = tasks[0].test.images[:1]
    for asked, told in (
        ({"images": images.tolist(), "task": 1}, "images: a list; give an array, uint8 of shape"),
        ({"images": images, "task": 10**5000}, "no such task"),
        ({"images": images, "task": 1, "device": "foo"}, "device = 'foo': torch cannot use it"),
        ({"images": images, "task": 1, "device": "cuda:99"}, "device = 'cuda:99': torch cannot"),
        ({"images": images, "task": 1, "device": "meta"}, "device = 'meta': torch cannot use it"),
        ({"images": images, "task": 1, "device": "hpu"}, "device = 'hpu': torch cannot use it"),
    ):
        with pytest.raises(UserError, match=told):
            run.predict(**asked)
    with pytest.raises(UserError, match=r"config: \{\}; give a configuration, as of zoo_ray.read_"):
        zoo_ray.grow({})


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("episodes", "tasks", [77]),
        ("episodes", "tasks", [-1]),
        ("episodes", "episode", 9),
        ("episodes", "weights", [1.0] * 4),
        ("results", "task", -1),
        ("results", "episode", 0),
    ],
)
def test_tables_of_another_run_are_told(grown, table, column, value):
    store = grown[0]._store
    tables = {key: store.read_table("zoo", f"{key}.parquet") for key in ("episodes", "results")}
    tables[table][column][0] = value
    store.create_run("mixed", grown[0].record)
    try:
        store.write_results("mixed", **tables)
        with pytest.raises(UserError, match="its tables are not those of a run of 3 tasks"):
            StoredRun(store, "mixed")
    finally:
        store.remove("runs/mixed")


def test_runs_that_are_not_there_or_not_grown_are_told(grown):
    store = grown[0]._store
    with pytest.raises(UserError, match="no run 'nobody'"):
        StoredRun(store, "nobody")
    store.create_run("begun", grown[0].record)
    with pytest.raises(UserError, match="the run has no episode yet"):
        StoredRun(store, "begun", grown=False)
    # A longer stream is recorded before its first fit.
    store.write_results(
        "begun",
        **{key: store.read_table("zoo", f"{key}.parquet") for key in ("episodes", "results")},
    )
    assert StoredRun(store, "begun").metrics == grown[0].metrics
    tasks = [*grown[0].tasks, grown[0].tasks[0]]
    store.lengthen_run("begun", grown[0].record.model_copy(update={"tasks": tasks}))
    with pytest.raises(UserError, match=r"not grown to its end yet \(3 of 4 episodes\)"):
        StoredRun(store, "begun")
    so_far = StoredRun(store, "begun", grown=False)
    assert (so_far.grown, so_far.metrics) == (False, grown[0].metrics)
    assert so_far.confusion() is None


@pytest.mark.parametrize("ahead", ["episodes", "results"])
def test_tables_that_are_read_while_they_are_written_are_of_one_episode(grown, ahead):
    run = grown[0]
    store = run._store
    tables = {key: store.read_table("zoo", f"{key}.parquet") for key in ("episodes", "results")}
    behind = "results" if ahead == "episodes" else "episodes"
    kept = [row for row, episode in enumerate(tables[behind]["episode"]) if episode < 3]
    tables[behind] = {key: [column[r] for r in kept] for key, column in tables[behind].items()}
    store.create_run("read", run.record)
    try:
        store.write_results("read", **tables)
        half = StoredRun(store, "read", grown=False)
        assert (len(half.accuracy), half.members) == (2, run.members[:2])
    finally:
        store.remove("runs/read")


@pytest.mark.parametrize(
    "zoo", [{}, {"closing_rounds": 2}, {"mode": "multitask", "rounds": 3, "warm_start": True}]
)
def test_a_run_that_was_cut_short_is_the_run_of_what_there_is(folder, tmp_path, monkeypatch, zoo):
    monkeypatch.setattr("zoo_ray.run_tables._EVERY_S", 0.0)
    monkeypatch.setattr("zoo_ray.run_tables._COST", 0)
    config = config_of(folder, **zoo).model_copy(update={"store": str(tmp_path)})
    rules = config.rules
    whole = grow(config.model_copy(update={"store": str(tmp_path / "whole")}), name="z").growth
    for episode in range(1, rules.episodes):

        def cut_short(progress, episode=episode):
            if progress.episodes_done == episode and progress.fits:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            grow(config, name="z", on_progress=cut_short)
        run = zoo_ray.open(tmp_path, "z")
        assert not run.grown
        assert run.metrics == whole.metrics(episode=episode)
        assert run.rules.members == len(run.members)
        assert "Not grown to its end: " in report_page([run]).html
        images = np.zeros((1, 28, 28, 1), np.uint8)
        if rules.arriving and episode < 3:
            with pytest.raises(UserError, match="run z has no such task so far"):
                run.predict(images=images, task=3)
        else:
            assert run.predict(images=images, task=3).shape == (1, 2)
    assert zoo_ray.grow(config, name="z").grown


def test_the_file_of_ones_own_network_is_kept(folder, tmp_path, write_module):
    module = write_module(TRUNK)
    config = config_of(folder)
    recipe = config.recipe.model_copy(update={"network": f"{module}.Tiny"})
    config = config.model_copy(update={"recipe": recipe, "store": str(tmp_path / "store")})
    run = zoo_ray.grow(config, name="zoo")
    kept = tmp_path / "store/runs/zoo/code" / f"{module}.py"
    assert kept.read_text() == TRUNK
    (tmp_path / f"{module}.py").write_text(TRUNK + "\n")
    own_code._load.cache_clear()
    with pytest.raises(UserError, match=rf"the file of {module}.Tiny .*; {kept.parent} has the fi"):
        run.predict(images=np.zeros((1, 28, 28, 1), np.uint8), task=1)
    assert verify(Store(str(tmp_path / "store"))).problems == []


def test_a_member_that_is_missing_is_told(folder, tmp_path):
    config = config_of(folder)
    config = config.model_copy(update={"store": str(tmp_path)})
    run = zoo_ray.grow(config, name="zoo")
    run._store.drop_member(run.members[-1].digest)
    images = np.zeros((1, 28, 28, 1), np.uint8)
    with pytest.raises(UserError, match="is missing; the command that grew the run"):
        run.predict(images=images, task=3)
