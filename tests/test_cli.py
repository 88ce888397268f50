"""The command line, as people and scripts meet it."""

import gzip
import hashlib
import json
import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from toys import RULE, TRUNK

import run_cluster
from zoo_ray import own_code
from zoo_ray.store import Store
from zoo_ray.stored import StoredRun

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
CONTRACT = {
    *("run", "store", "episodes", "members", "fitted", "read", "digest", "first_fit_s", "wall_s"),
    *("average_accuracy", "learning_accuracy", "forgetting", "backward_transfer", "accuracy"),
    "speculative",
}


@pytest.fixture
def config_file(tmp_path, run_config):
    """Writes a tiny run's YAML; keys given as section={key: value} override it."""

    def write(**sections):
        raw = run_config().model_dump(mode="json")
        for section, keys in sections.items():
            raw[section] = raw[section] | keys if isinstance(keys, dict) else keys
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(raw))
        return str(path)

    return write


@pytest.fixture
def refused(tmp_path, capfd):
    """Runs a command that must end with exit code 2 and one line, having written nothing."""

    def run(*argv):
        before = sorted(tmp_path.rglob("*"))
        assert run_cluster.main([str(argument) for argument in argv]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return run


def test_json_is_the_last_line_of_stdout_and_all_else_goes_to_stderr(config_file, capfd):
    assert run_cluster.main(["train", config_file(), "--json"]) == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert out.count("\n") == 1
    assert result.keys() == CONTRACT
    assert result["run"] == "tiny"
    assert result["accuracy"][0][1:] == [None, None]
    assert "average accuracy" in err


def test_without_json_the_table_is_on_stdout(config_file, capfd):
    assert run_cluster.main(["train", config_file(), "--name", "my run"]) == 0
    out, _ = capfd.readouterr()
    assert "average accuracy" in out
    assert "report/accuracy.png" in out


def test_train_again_fits_nothing_starts_no_ray_and_imports_no_torch(config_file):
    config = config_file()
    assert run_cluster.main(["train", config, "--json"]) == 0
    script = (
        "import sys, run_cluster\n"
        f"code = run_cluster.main(['train', {config!r}, '--json', '--workers', '2'])\n"
        "assert code == 0 and not {'torch', 'ray'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["fitted"] == 0


def test_check_shows_the_plan_and_writes_nothing(config_file, tmp_path, capfd):
    config = config_file(zoo={"members_per_episode": 2})
    before = sorted(tmp_path.rglob("*"))
    assert run_cluster.main(["check", config, "--json"]) == 0
    out, err = capfd.readouterr()
    shown = json.loads(out.splitlines()[-1])
    assert shown["members"] == 6
    # b = 2: episodes 1 and 2 are settled; 3 draws the third task and another (mean size 140 / 3).
    assert shown["images"] == round(2 * (40 + 80 + 2 * 140 / 3))
    assert not shown["images_exact"]
    assert shown["in_store"] == 0
    assert [task["train"] for task in shown["tasks"]] == [40, 40, 60]
    assert shown["config"]["recipe"]["precision"] == "float32"
    assert "members: 6; to fit them all takes" in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("zoo.task_per_member=2", "unknown key zoo.task_per_member; allowed here: mode, tasks_per"),
        ("recipe.epochs=many", "recipe.epochs = 'many'"),
        ("recipe.lr=.nan", "recipe.lr = nan"),
        ("benchmark.tasks=[[0, 1], [2, 77]]", "class 77"),
        ("benchmark.tasks=[[0, 1], [2, 2]]", "names class 2 twice"),
        ("benchmark.tasks=[[0, 1], []]", "benchmark.tasks (task 2) = []"),
        ("benchmark.dataset=nonesuch", "no such data set; allowed are digits"),
        ("benchmark.dataset=parquet:/no/such/folder", "/no/such/folder"),
        ("benchmark.dataset=arrays", "they are given in Python"),
        ("benchmark.image_size=27", "small_conv: takes images of 28 to 84 pixels, not of 27 x 27"),
        ("benchmark.image_size=[8, 2000]", "allowed is one number, or [height, width], of 8 to"),
        ("workers.gpus=64", "workers.gpus = 64"),
        ("workers.count=100000", "workers.cpus = 1, for workers.count = 100000"),
        ("store=s4://bucket", "store = 's4://...'"),
        ("nonsense", "expected KEY=VALUE"),
    ],
)
@pytest.mark.parametrize("command", ["train", "check"])
def test_a_bad_value_is_one_line_that_names_it(config_file, refused, command, override, said):
    assert said in refused(command, config_file(), "--set", override)


# ---- a network of the user's own


def test_a_network_of_ones_own_lies_in_the_working_directory(config_file, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "nets.py").write_text(TRUNK)
    config = config_file(recipe={"network": "nets.Tiny", "network_arguments": {"width": 3}})
    command = [sys.executable, ROOT / "run_cluster.py", "check", config, "--json"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    recipe = json.loads(done.stdout.splitlines()[-1])["config"]["recipe"]
    assert json.loads(recipe["trunk"]) == {
        "arguments": {"width": 3},
        "source": hashlib.sha256(TRUNK.encode()).hexdigest(),
    }


def test_a_network_with_other_arguments_is_another_run(config_file, refused, write_module, capfd):
    config = config_file(recipe={"network": f"{write_module(TRUNK)}.Tiny"})
    assert run_cluster.main(["train", config]) == 0
    capfd.readouterr()
    said = refused("train", config, "--set", "recipe.network_arguments.width=5")
    assert "recipe.network (its file, or its arguments)" in said


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0", "importing MODULE: ZeroDivisionError: division by zero"),
        ("Tiny = print", "MODULE.py is no subclass of torch.nn.Module"),
        (TRUNK.replace("width=4", "depth"), "TypeError: "),
        (TRUNK.replace("5, stride", "99, stride"), "RuntimeError: "),
    ],
)
@pytest.mark.parametrize("command", ["train", "check"])
def test_a_network_that_is_none(config_file, refused, write_module, command, source, said):
    module = write_module(source)
    message = refused(command, config_file(recipe={"network": f"{module}.Tiny"}))
    assert f"recipe.network = {module}.Tiny: " in message
    assert said.replace("MODULE", module) in message


def test_a_run_is_drawn_by_ones_own_rule_and_goes_on_with_no_other(
    config_file, refused, write_module, tmp_path, capfd
):
    module = write_module(RULE)
    config = config_file(zoo={"tasks_per_member": 2, "weights": f"{module}.easiest"})
    assert run_cluster.main(["train", config]) == 0
    capfd.readouterr()
    (tmp_path / f"{module}.py").write_text(RULE.replace("5", "4"))
    own_code._load.cache_clear()
    assert "zoo.weights (its file)" in refused("train", config)
    said = refused("check", config, "--set", f"zoo.weights={module}.hardest", "--name", "other")
    assert f"zoo.weights = {module}.hardest: " in said
    assert "has no hardest" in said
    sharp = refused("check", config, "--set", "zoo.sharpness=2")
    assert "sharpness = 2.0 goes with weights: boosting" in sharp


def test_a_network_whose_training_fails(config_file, write_module, tmp_path, capfd):
    source = TRUNK.replace("return", "assert not self.training, 'no training'; return")
    config = config_file(recipe={"network": f"{write_module(source)}.Tiny"})
    assert run_cluster.main(["train", config]) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert "member 1 of episode 1: AssertionError: no training; see " in said
    (log,) = (tmp_path / "store/runs/tiny/failures").iterdir()
    assert "in forward" in log.read_text()


# ---- as the published code takes it


@pytest.fixture
def published(tmp_path, idx_dataset):
    """The options that name the published code's two files."""
    data, hp = tmp_path / "data config.yaml", tmp_path / "conv.yaml"
    data.write_text(yaml.safe_dump({"dataset": idx_dataset, "tasks": [[0, 1], [2, 3], [4, 5]]}))
    hp.write_text('model: "conv"\nbatch: 16\nlr: 0.01\nl2_reg: 0.00001\ndropout: 0.2\n')
    return ["--data_config", str(data), "--hp_config", str(hp)]


def configuration(capfd, *argv):
    assert run_cluster.main(["check", *argv, "--json"]) == 0
    config = json.loads(capfd.readouterr().out.splitlines()[-1])["config"]
    recipe, zoo = config["recipe"], config["zoo"]
    return {
        **{key: recipe[key] for key in ("network", "epochs", "batch", "lr", "l2")},
        **{key: zoo[key] for key in ("replay", "tasks_per_member", "seed")},
    }


def test_the_published_codes_files_and_defaults(published, capfd):
    expected = {"network": "small_conv", "epochs": 100, "batch": 16, "lr": 0.01, "l2": 1e-5}
    expected |= {"replay": 1.0, "tasks_per_member": 5, "seed": 100}
    assert configuration(capfd, *published) == expected
    flags = ["--epochs", "3", "--replay_frac", "0.5", "--tasks_per_round", "2", "--seed=7"]
    changed = {"epochs": 3, "replay": 0.5, "tasks_per_member": 2, "seed": 7}
    assert configuration(capfd, *published, *flags) == expected | changed
    overrides = ["--set", "zoo.seed=8", "--set", "recipe.l2=1"]
    assert configuration(capfd, *published, *flags, *overrides) == (
        expected | changed | {"seed": 8, "l2": 1.0}
    )


def test_what_a_file_says_wins_over_a_default(published, capfd):
    hp = Path(published[-1])
    hp.write_text(f"{hp.read_text()}epochs: 6\n")
    assert configuration(capfd, *published)["epochs"] == 6
    assert configuration(capfd, *published, "--epochs", "3")["epochs"] == 3


def test_a_run_by_the_published_codes_flags(published, tmp_path, capfd):
    options = ["--workers", "0", "--store", str(tmp_path / "store"), "--json"]
    assert run_cluster.main(["train", *published, "--epochs", "1", *options]) == 0
    result = json.loads(capfd.readouterr().out)
    assert (result["run"], result["fitted"]) == ("data config", 3)
    assert run_cluster.main(["train", *published, "--epochs=1", *options, "--name=other"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert (result["run"], result["fitted"], result["read"]) == ("other", 0, 3)


def test_files_and_flags_that_do_not_go_together(published, config_file, refused, tmp_path):
    data, hp = published[:2], published[2:]
    both = "give --data_config and --hp_config both, or CONFIG and --set KEY=VALUE"
    assert f"--data_config without --hp_config: {both}" in refused("train", *data)
    assert f"--hp_config without --data_config: {both}" in refused("check", *hp, "--seed", 3)
    assert "--seed without --data_config" in refused("train", "--seed", 3)
    assert "give CONFIG, a run's YAML file (before options" in refused("check")
    for flags in (published, data, ["--epochs", 3]):
        assert f"CONFIG and {flags[0]}: give a run's" in refused("train", config_file(), *flags)
    said = refused("train", *data, "--hp_config", tmp_path / "none.yaml")
    assert "--hp_config: recipe: " in said
    assert "none.yaml: no such file" in said
    said = refused("check", *published, "--replay_frac", 2)
    assert f"{data[1]}, {hp[1]}: zoo.replay = 2: Input should be less than or equal to 1" in said
    assert "recipe.epochs = 'many'" in refused("check", *published, "--epochs", "many")


def test_a_missing_configuration(refused, tmp_path):
    assert "no such file" in refused("train", tmp_path / "none.yaml")


def test_a_torn_configuration(refused, tmp_path):
    text = QUICKSTART.read_text()
    (tmp_path / "torn.yaml").write_text(text[: text.index("[2, 3]") + 3])
    assert "not valid YAML" in refused("train", tmp_path / "torn.yaml")


def test_a_truncated_idx_file(config_file, refused, idx_dataset, tmp_path):
    folder = tmp_path / "torn"
    folder.mkdir()
    for file in Path(idx_dataset.removeprefix("idx:")).iterdir():
        content = file.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        torn = content[:-1] if "train-images" in file.name else content
        (folder / file.name.removesuffix(".gz")).write_bytes(torn)
    assert "train-images" in refused(
        "train", config_file(), "--set", f"benchmark.dataset=idx:{folder}"
    )


def test_a_parquet_file_without_images(config_file, refused, tmp_path):
    for split in ("train", "test"):
        table = pa.table({"label": [0, 1]})
        pa.parquet.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    assert "no image column" in refused(
        "train", config_file(), "--set", f"benchmark.dataset=parquet:{tmp_path}"
    )


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_hostile_pickle(config_file, refused, tmp_path):
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        (batches / name).write_bytes(pickle.dumps(Hostile(tmp_path / "was-here"), protocol=2))
    said = refused(
        *("train", config_file()),
        *("--set", "benchmark.dataset=cifar10", "--set", f"benchmark.data_dir={tmp_path}"),
    )
    assert "this pickle asks for" in said


@pytest.mark.parametrize("command", ["train", "check"])
def test_a_store_that_cannot_be_written(config_file, refused, tmp_path, command):
    (tmp_path / "file").write_text("not a folder")
    for store in (tmp_path / "file", tmp_path / "file" / "store", "/dev/null/x"):
        said = refused(command, config_file(), "--store", store)
        assert f"error: store {store}: cannot write members (Not a directory); give a" in said


def test_check_shows_values_whole_and_in_any_script(config_file, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    store = str(tmp_path / "été" / ("x" * 120))
    assert run_cluster.main(["check", config_file(), "--store", store]) == 0
    out, _ = capfd.readouterr()
    assert store in out
    assert out.startswith("# recipe is shown as it was resolved")


# ---- stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_stdout_that_cannot_be_written_is_one_line(config_file, options):
    command = [sys.executable, "run_cluster.py", "check", config_file(), *options]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last == "error: stdout: cannot be written (No space left on device)"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_pipe_that_nobody_reads_is_quiet(config_file, options):
    command = [sys.executable, "run_cluster.py", "check", config_file(), *options]
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(command, cwd=ROOT, stdout=writes, stderr=subprocess.PIPE, text=True)
    os.close(writes)
    assert done.returncode == 1
    assert not any(word in done.stderr for word in ("error", "Traceback", "Exception"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("told", ["2>/dev/full", "2>&-", "2>&1 >/dev/full | true"])
def test_work_does_not_end_because_nobody_hears_of_it(config_file, run_config, told):
    command = shlex.join([sys.executable, "run_cluster.py", "train", config_file()])
    subprocess.run(f"{command} {told}", cwd=ROOT, shell=True, capture_output=True)
    assert StoredRun(Store(run_config().store), "tiny").grown


def test_the_same_name_with_another_configuration_is_refused(config_file, refused, capfd):
    config = config_file()
    assert run_cluster.main(["train", config, "--json"]) == 0
    capfd.readouterr()
    said = refused("train", config, "--set", "recipe.lr=0.5", "--set", "zoo.seed=3")
    assert "recipe.lr (was 0.01, is 0.5)" in said
    assert "zoo.seed (was 0, is 3)" in said


@pytest.mark.parametrize("name", ["", "..", "a/b", "x" * 300, "new\nline"])
def test_a_name_that_cannot_be_a_folder(config_file, refused, name):
    assert "--name" in refused("train", config_file(), "--name", name)


def test_no_ray_cluster_at_the_address(config_file):
    # In a process of its own: the tests' may have joined a cluster already.
    command = ["train", config_file(), "--workers", "1", "--address", "127.0.0.1:1"]
    done = subprocess.run(
        [sys.executable, "run_cluster.py", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --address 127.0.0.1:1: no Ray cluster answers")
    assert done.stderr.count("\n") == 1
