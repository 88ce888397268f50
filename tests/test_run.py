import json
import struct
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from toys import toy_part

from zoo_ray import plan
from zoo_ray.benchmarks import arrays_source
from zoo_ray.errors import UserError
from zoo_ray.members.hardware import resolve_precision
from zoo_ray.plan import plan_run
from zoo_ray.run import grow, prepare, record_run
from zoo_ray.store import Store
from zoo_ray.stored import StoredRun
from zoo_ray.zoo.metrics import metrics

KEYS = [
    *("run", "store", "episodes", "members", "fitted", "read", "speculative"),
    *("average_accuracy", "learning_accuracy", "backward_transfer", "forgetting"),
    *("accuracy", "digest", "first_fit_s", "wall_s"),
]


def run_folder(result):
    return Path(result.store) / "runs" / result.name


def refusal(config, *, name):
    with pytest.raises(UserError) as caught:
        grow(config, name=name)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- the result


def test_a_run_keeps_the_contract_of_its_json(run_config, tmp_path):
    result = grow(run_config(), name="first")
    found = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert list(found) == KEYS
    assert (found["run"], found["store"]) == ("first", str(tmp_path / "store"))
    assert (found["episodes"], found["members"]) == (3, 3)
    assert (found["fitted"], found["read"]) == (3, 0)
    assert [[value is None for value in row] for row in found["accuracy"]] == [
        [False, True, True],
        [False, False, True],
        [False, False, False],
    ]
    matrix = np.array(found["accuracy"], dtype=np.float64)
    np.testing.assert_array_equal(matrix, result.growth.accuracy())
    for key, value in metrics(matrix)._asdict().items():
        assert found[key] == value
    assert len(found["digest"]) == 64
    assert 0 <= found["first_fit_s"] <= found["wall_s"]


def test_a_stream_of_one_task_has_no_transfer(run_config):
    found = grow(run_config(benchmark={"tasks": [[0, 1]]}), name="one").to_dict()
    assert found["backward_transfer"] is None
    assert found["forgetting"] is None
    assert found["average_accuracy"] == found["learning_accuracy"]


def test_a_run_learns(run_config):
    config = run_config(recipe={"epochs": 4}, zoo={"mode": "isolated"})
    assert grow(config, name="run").to_dict()["average_accuracy"] > 0.8


# ---- again, further, otherwise


def test_the_same_command_reads_everything_and_fits_nothing(run_config):
    first = grow(run_config(), name="run")
    second = grow(run_config(), name="run").to_dict()
    assert (second["fitted"], second["read"], second["first_fit_s"]) == (0, 3, None)
    changed = {"fitted", "read", "first_fit_s", "wall_s"}
    assert {k: v for k, v in second.items() if k not in changed} == {
        k: v for k, v in first.to_dict().items() if k not in changed
    }


def test_another_run_shares_the_members(run_config):
    first = grow(run_config(), name="first").to_dict()
    second = grow(run_config(), name="second").to_dict()
    assert (second["fitted"], second["digest"]) == (0, first["digest"])


def test_another_store_gives_the_same_zoo(run_config, tmp_path):
    first = grow(run_config(), name="run")
    second = grow(run_config().model_copy(update={"store": str(tmp_path / "other")}), name="run")
    assert second.fitted == 3
    assert second.growth.digest() == first.growth.digest()


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"recipe": {"lr": 0.02}}, ["recipe.lr", "0.01", "0.02"]),
        ({"zoo": {"seed": 1}}, ["zoo.seed"]),
        ({"zoo": {"mode": "uniform"}}, ["zoo.mode"]),
        ({"recipe": {"batch": 4}, "zoo": {"seed": 1}}, ["recipe.batch", "zoo.seed"]),
        # `auto` crops where there are several epochs: no key that people write is called crop.
        ({"recipe": {"epochs": 2}}, ["recipe.epochs (was 1", "recipe.augment (was False, is True"]),
        ({"benchmark": {"tasks": [[0, 1], [2, 4], [4, 5, 0]]}}, ["task 2 was '2, 3', is '2, 4'"]),
        ({"benchmark": {"tasks": [[1, 0], [2, 3], [4, 5, 0]]}}, ["task 1 was '0, 1', is '1, 0'"]),
        ({"benchmark": {"tasks": [[0, 1], [2, 3]]}}, ["benchmark.tasks (were 3, are the first 2"]),
        ({"benchmark": {"order_seed": 0}}, ["another order", "benchmark.order_seed (was None, is"]),
        (
            {"benchmark": {"validation": 0.1}},
            ["task 1, '0, 1', has other images", "benchmark.validation (was 0.0, is 0.1)"],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_the_same_name_with_another_configuration_is_refused(run_config, sections, named):
    first = grow(run_config(), name="run")
    record = (run_folder(first) / "run.json").read_bytes()
    message = refusal(run_config(**sections), name="run")
    assert all(key in message for key in [*named, "--name", f"rm run --store {first.store}"])
    assert "crop" not in message.replace("auto crops", "")
    assert (run_folder(first) / "run.json").read_bytes() == record


def test_a_lengthened_stream_fits_the_new_episodes_alone(run_config):
    short = grow(run_config(benchmark={"tasks": [[0, 1], [2, 3]]}), name="run")
    long = grow(run_config(), name="run")
    assert (short.fitted, long.fitted, long.read) == (2, 1, 2)
    assert long.growth.members()[:2] == short.growth.members()
    np.testing.assert_array_equal(long.growth.accuracy()[:2, :2], short.growth.accuracy())
    assert len(Store(long.store).read_run("run").tasks) == 3


def test_the_record_is_lengthened_even_if_nothing_is_left_to_fit(run_config):
    grow(run_config(), name="other run with all the members")
    grow(run_config(benchmark={"tasks": [[0, 1], [2, 3]]}), name="run")
    long = grow(run_config(), name="run")
    assert long.fitted == 0
    assert len(Store(long.store).read_run("run").tasks) == 3


def test_of_two_commands_that_begin_a_run_the_longer_stream_stays(run_config):
    short, long = (
        plan_run(run_config(benchmark={"tasks": tasks})) for tasks in ([[0, 1]], [[0, 1], [2, 3]])
    )
    store = Store(short.config.store)
    record_run(store, short, None, name="run")
    record_run(store, long, None, name="run")  # it had looked before
    assert len(store.read_run("run").tasks) == 2


def test_nodes_that_join_are_for_all_that_there_is_to_fit(run_config):
    planned = plan_run(run_config(workers={"count": "auto"}), members=40)
    assert planned.job(folder="f", store="s", call="c")["most_workers"] == 40


def test_averages_over_flips_that_no_fit_has_seen_are_warned_of(run_config, caplog):
    for keys, told in (({"flip": True, "augment": True}, False), ({}, True)):
        plan._warn_once.cache_clear()
        plan_run(run_config(recipe=keys | {"average_flips": True}))
        assert ("recipe.flip: true" in caplog.text) == told


def test_dropout_that_the_network_does_not_have_is_warned_of(run_config, caplog):
    plan._warn_once.cache_clear()
    plan_run(run_config(recipe={"dropout": 0.25}))
    assert "recipe.dropout = 0.25: small_conv has no place for it" in caplog.text


def test_tasks_of_one_class_are_warned_of(run_config, caplog):
    plan_run(run_config(benchmark={"tasks": [[0, 1], [2], [3]]}))
    assert "2 tasks have one class (the first: 2)" in caplog.text


def test_how_many_fit_is_no_part_of_a_run(run_config):
    grow(run_config(), name="run")
    assert grow(run_config(workers={"cpus": 1}), name="run").fitted == 0


def test_precision_once_resolved_is_kept_from_the_record(run_config):
    here = resolve_precision(gpu=False)
    other = {"float32": "bfloat16", "bfloat16": "float32"}[here]
    benchmark = {"tasks": [[0, 1]]}
    assert plan_run(run_config(recipe={"precision": "auto"})).recipe.precision == here
    grow(run_config(benchmark=benchmark, recipe={"precision": other}), name="elsewhere")
    resumed = grow(run_config(benchmark=benchmark, recipe={"precision": "auto"}), name="elsewhere")
    assert resumed.fitted == 0
    assert Store(resumed.store).read_run("elsewhere").recipe["precision"] == other
    message = refusal(run_config(benchmark=benchmark, recipe={"precision": here}), name="elsewhere")
    assert "recipe.precision" in message


def test_a_run_that_is_removed_while_it_grows_is_recorded_in_the_end(run_config):
    store = Store(run_config().store)
    grow(run_config(), name="r", on_progress=lambda _: store.remove("runs/r"))
    assert StoredRun(store, "r").grown
    assert grow(run_config(), name="r").fitted == 0


def test_a_run_without_its_record_is_written_again(run_config):
    first = grow(run_config(), name="run")
    (run_folder(first) / "run.json").unlink()
    assert grow(run_config(), name="run").fitted == 0
    assert len(Store(first.store).read_run("run").tasks) == 3


def test_changed_images_are_another_benchmark(run_config, tmp_path, idx_dataset):
    first = grow(run_config(), name="run")
    source, copy = Path(idx_dataset.removeprefix("idx:")), tmp_path / "copy"
    copy.mkdir()
    for file in source.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert grow(run_config(benchmark={"dataset": f"idx:{copy}"}), name="run").fitted == 0
    images = copy / "train-images-idx3-ubyte"
    content = images.read_bytes()
    images.write_bytes(content[:16] + bytes([content[16] ^ 1]) + content[17:])
    assert "benchmark" in refusal(run_config(benchmark={"dataset": f"idx:{copy}"}), name="run")
    assert first.fitted == 3


def test_arrays_of_a_program_are_the_run_of_the_same_files(run_config):
    train, test = (
        toy_part(6 * per_class, classes=6, size=28, channels=1, seed=seed)
        for per_class, seed in ((20, 0), (6, 1))
    )
    source = arrays_source(train=(train.images, train.labels), test=(test.images, test.labels))
    first = grow(run_config(), name="run")
    config = run_config(benchmark={"dataset": "arrays"})
    again = grow(config, name="run", source=source)
    assert (again.fitted, again.growth.digest()) == (0, first.growth.digest())
    with ExitStack() as until:
        assert prepare(config, name="run", source=source, until=until).record is not None
    assert "they are given in Python" in refusal(config, name="run")


# ---- what is resolved


def test_auto_is_resolved_by_rule(run_config):
    recipe = plan_run(run_config()).recipe
    assert (recipe.crop, recipe.flip) == (False, False)  # one epoch
    recipe = plan_run(run_config(recipe={"epochs": 2})).recipe
    assert (recipe.crop, recipe.flip) == (True, False)  # grey images
    recipe = plan_run(run_config(recipe={"augment": True, "flip": True})).recipe
    assert (recipe.crop, recipe.flip) == (True, True)
    recipe = plan_run(run_config(recipe={"epochs": 2, "augment": False})).recipe
    assert (recipe.crop, recipe.flip) == (False, False)


def test_images_that_the_network_does_not_take_are_refused(run_config, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(
            bytes([0, 0, 8, 3]) + struct.pack(">3I", 4, 8, 8) + bytes(256)
        )
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(
            bytes([0, 0, 8, 1]) + struct.pack(">I", 4) + bytes([0, 1, 0, 1])
        )
    config = run_config(benchmark={"dataset": f"idx:{folder}", "tasks": [[0, 1]]})
    message = refusal(config, name="run")
    assert "28 to 84 pixels, not of 8 x 8" in message
    assert "scale them by benchmark.image_size" in message


def test_images_of_one_size_for_all_tasks(run_config, tmp_path):
    for name, size in (("a", 28), ("b", 40)):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (size, size)).save(tmp_path / "own" / name / f"{number}.png")
    benchmark = {"dataset": f"folder:{tmp_path / 'own'}", "tasks": [["a"], ["b"]]}
    message = refusal(run_config(benchmark=benchmark), name="run")
    assert "differ in size or channels between tasks; make them equal" in message
    assert "benchmark.image_size" in message
    plan = plan_run(run_config(benchmark=benchmark | {"image_size": [30, 32]}))
    assert {task.image_shape for task in plan.tasks} == {(30, 32, 1)}


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 300])
def test_a_bad_name_is_refused_before_anything_is_written(run_config, name, tmp_path):
    assert "--name" in refusal(run_config(), name=name)
    assert not (tmp_path / "store").exists()


def test_a_diverging_fit_names_member_and_remedy(run_config):
    message = refusal(run_config(recipe={"lr": 1e6, "epochs": 3}), name="run")
    assert "member 1 of episode 1" in message
    assert "recipe.lr" in message


# ---- what lies in the run's folder


@pytest.fixture
def grown(run_config):
    return grow(
        run_config(benchmark={"validation": 0.2}, zoo={"members_per_episode": 2}), name="run"
    )


def table(result, name):
    return pyarrow.parquet.read_table(run_folder(result) / name).to_pylist()


def test_the_table_of_results_is_the_accuracy_matrix(grown):
    rows = table(grown, "results.parquet")
    accuracy = grown.growth.accuracy()
    assert [(row["episode"], row["task"]) for row in rows] == [
        (e, task) for e in (1, 2, 3) for task in range(e)
    ]
    for row in rows:
        episode, task = grown.growth.episodes[row["episode"] - 1], row["task"]
        assert row["test_accuracy"] == accuracy[row["episode"] - 1, task]
        assert row["validation_accuracy"] == episode.validation_accuracy[task]
        assert row["loss"] == episode.losses[task]
        assert row["members"] == episode.members_of_task[task]
        assert row["task_name"] == grown.growth.tasks[task].name


def test_validation_accuracy_is_null_without_a_validation_part(run_config):
    rows = table(grow(run_config(), name="run"), "results.parquet")
    assert {row["validation_accuracy"] for row in rows} == {None}


def test_the_table_of_episodes_names_every_member(grown):
    rows = table(grown, "episodes.parquet")
    members = grown.growth.members()
    assert len(rows) == len(members) == 6
    for row, member in zip(rows, members, strict=True):
        assert (row["episode"], row["index"]) == (member.slot.episode, member.slot.index)
        assert row["tasks"] == list(member.tasks)
        assert row["digest"] == member.digest
        assert row["predictions_sha256"] == member.predictions_sha256
        assert row["weights"] == grown.growth.episodes[row["episode"] - 1].weights.tolist()


def test_the_record_holds_what_was_asked_for_and_what_it_became(grown):
    record = json.loads((run_folder(grown) / "run.json").read_text())
    assert record["format_version"] == 1
    assert record["config"]["recipe"]["augment"] == "auto"
    assert record["recipe"]["crop"] is False
    assert record["zoo"]["members_per_episode"] == 2
    assert [task["digest"] for task in record["tasks"]] == [t.digest for t in grown.growth.tasks]
    assert {"python", "torch", "numpy"} <= record["versions"].keys()
    assert "auto" not in record["recipe"].values()


def test_the_figure_is_a_png(grown):
    assert Path(grown.figure) == run_folder(grown) / "report/accuracy.png"
    content = Path(grown.figure).read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")


def test_nothing_but_whole_files_is_left(grown):
    names = [path.name for path in Path(grown.store).rglob("*") if path.is_file()]
    assert not [name for name in names if name.endswith(".part") or name.startswith(".")]


@pytest.mark.parametrize(
    "keys",
    [
        {"mode": "multitask"},
        {"mode": "multitask", "rounds": 3},
        {"mode": "multihead"},
        {"closing_rounds": 1},
    ],
)
def test_a_zoo_that_knows_the_end_of_its_stream_does_not_grow_on(run_config, keys):
    grow(run_config(benchmark={"tasks": [[0, 1], [2, 3]]}, zoo=keys), name="zoo")
    longer = run_config(benchmark={"tasks": [[0, 1], [2, 3], [4, 5]]}, zoo=keys)
    told = refusal(longer, name="zoo")
    assert "only a stream that ends with its last task can grow" in told


def test_a_run_recorded_before_its_keys_were_known_goes_on(run_config, tmp_path):
    grow(run_config(), name="zoo")
    path = tmp_path / "store" / "runs" / "zoo" / "run.json"
    record = json.loads(path.read_text())
    old = ("mode", "tasks_per_member", "members_per_episode", "seed")
    record["zoo"] = {key: record["zoo"][key] for key in old}
    del record["episodes"]
    for task in record["tasks"]:
        del task["image_shape"]
    path.write_text(json.dumps(record))
    assert grow(run_config(), name="zoo").fitted == 0
    assert "zoo.replay (was 1.0, is 0.5)" in refusal(run_config(zoo={"replay": 0.5}), name="zoo")
