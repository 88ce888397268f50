"""What a job takes along."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from toys import RULE, TRUNK

import run_cluster
from zoo_ray.cluster.packing import Submission, pack
from zoo_ray.errors import UserError

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
SEARCH = str(ROOT / "configs" / "searches" / "members_and_tasks.yaml")


def packed(folder, *words):
    """Packs a command; gives the submission."""
    submission = run_cluster._submission(words).with_paths(here=True)
    pack(submission, folder, script=ROOT / "run_cluster.py")
    return submission


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "package").mkdir()
    return tmp_path / "package"


def check_there(folder, submission):
    """What `check` says of the packed command, run from the package alone."""
    words = shlex.split(submission.entrypoint())
    at = words.index("--address")
    done = subprocess.run(
        [sys.executable, "run_cluster.py", "check", *words[3:at], "--json"],
        cwd=folder,
        env={"PYTHONSAFEPATH": "", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_home_that_is_nobodys_is_told(folder):
    with pytest.raises(UserError, match=r"~nobody_of_this_name/x: .*; write the path out"):
        packed(folder, "train", QUICKSTART, "--set=benchmark.dataset=folder:~nobody_of_this_name/x")


def test_the_package_is_whole_and_holds_no_more_than_a_job_needs(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    submission = packed(folder, "--", "train", QUICKSTART, "--set", "recipe.epochs=2", "--json")
    assert {path.name for path in folder.iterdir()} == {"zoo_ray", "run_cluster.py", "config.yaml"}
    assert {path.suffix for path in folder.rglob("*.*")} == {".py", ".yaml"}
    assert submission.entrypoint() == (
        "python run_cluster.py train config.yaml --name=quickstart --address auto --json"
    )
    shown = check_there(folder, submission)
    assert shown["config"]["recipe"]["epochs"] == 2
    # Paths mean there what they mean here.
    assert shown["config"]["store"] == str(tmp_path / "zoo_store")
    assert shown["config"]["benchmark"]["data_dir"] == str(tmp_path / "data")


def test_a_name_may_begin_with_a_dash_or_hold_spaces():
    for name in ("-x", "my zoo"):
        submission = run_cluster._submission(["train", QUICKSTART, f"--name={name}"])
        words = shlex.split(submission.entrypoint())
        assert run_cluster._parser().parse_args(words[2:]).name == name


def test_what_a_configuration_names_comes_along(folder):
    words = ["train", QUICKSTART, "--set", f"recipe={ROOT / 'configs/recipes/small_conv.yaml'}"]
    packed(folder, *words)
    there = yaml.safe_load((folder / "config.yaml").read_text())
    assert there["recipe"] == yaml.safe_load((ROOT / "configs/recipes/small_conv.yaml").read_text())


def test_a_search_and_its_base_come_along(folder):
    submission = packed(folder, "tune", SEARCH, "--store", "/shared/zoos")
    assert submission.store == "/shared/zoos"
    again = run_cluster._submission(["tune", str(folder / "config.yaml"), "--name", "again"])
    assert again.config == submission.config


def test_options_of_a_comparison_come_along():
    words = ["compare", QUICKSTART, "--shuffle", "--seeds", "0", "1"]
    words += ["--modes", "continual", "isolated"]
    submission = run_cluster._submission([*words, "--vary", "zoo.sharpness=2", "recipe.lr=0.1"])
    assert submission.entrypoint() == (
        "python run_cluster.py compare config.yaml --name=quickstart --address auto "
        "--shuffle --modes continual isolated --seeds 0 1 --vary zoo.sharpness=2 recipe.lr=0.1"
    )
    assert Submission.from_metadata(submission.to_metadata()) == submission


@pytest.mark.parametrize("way", ["train", "vary", "space"])
def test_ones_own_network_comes_along(folder, write_module, way):
    name = write_module(TRUNK)
    network = f"{name}.Tiny"
    if way == "train":
        submission = packed(folder, "train", QUICKSTART, "--set", f"recipe.network={network}")
        assert check_there(folder, submission)["config"]["recipe"]["network"] == network
    elif way == "vary":
        packed(folder, "compare", QUICKSTART, "--vary", f"recipe.network={network}")
    else:
        choice = f"space.recipe.network={{choice: [small_conv, {network}]}}"
        packed(folder, "tune", SEARCH, "--set", choice)
    assert (folder / f"{name}.py").read_text() == TRUNK


@pytest.mark.parametrize("way", ["train", "vary", "space"])
def test_ones_own_rule_of_weights_comes_along(folder, write_module, way):
    name = write_module(RULE)
    if way == "train":
        packed(folder, "train", QUICKSTART, "--set", f"zoo.weights={name}.easiest")
    elif way == "vary":
        packed(folder, "compare", QUICKSTART, "--vary", f"zoo.weights={name}.easiest")
    else:
        packed(folder, "tune", SEARCH, "--set", f"space.zoo.weights={{choice: [{name}.easiest]}}")
    assert (folder / f"{name}.py").read_text() == RULE


def test_a_package_comes_whole_and_what_is_installed_stays(folder, tmp_path, monkeypatch):
    package = tmp_path / "mynets"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "net.py").write_text(TRUNK)
    (package / "weights.bin").write_bytes(b"0")
    monkeypatch.syspath_prepend(tmp_path)
    packed(folder, "train", QUICKSTART, "--set", "recipe.network=mynets.net.Tiny")
    assert {path.name for path in (folder / "mynets").iterdir()} == {"__init__.py", "net.py"}
    packed(folder, "train", QUICKSTART, "--set", "recipe.network=torch.nn.Identity")
    assert not (folder / "torch").exists()


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["train", QUICKSTART, "--set=recipe.network=nowhere.Net"], "recipe.network"),
        (["train", QUICKSTART, "--set=zoo.weights=nowhere.Net"], "zoo.weights"),
        (["compare", QUICKSTART, "--vary", "zoo.weights=nowhere.Net"], "zoo.weights"),
        (
            ["compare", QUICKSTART, "--vary", "zoo.weights='nowhere.Net'"],
            "recipe.network or zoo.weights",
        ),
        (["tune", SEARCH, "--set=base.recipe.network=nowhere.Net"], "recipe.network"),
        (["tune", SEARCH, "--set=space.zoo.weights={choice: [nowhere.Net]}"], "zoo.weights"),
    ],
)
def test_code_that_is_nowhere(folder, words, shown):
    with pytest.raises(UserError) as refused:
        packed(folder, *words)
    assert str(refused.value) == (
        f"{shown} = nowhere.Net: there is no module nowhere in the working directory or elsewhere "
        "on Python's path; give the command in the folder that holds nowhere.py"
    )


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("store=zoos", "store = zoos: a folder of this machine"),
        ("benchmark.dataset=folder:imgs", "benchmark.dataset = folder:imgs: a folder of this"),
    ],
)
def test_a_path_that_the_cluster_does_not_see(item, said):
    words = ["train", QUICKSTART, "--set", "store=/shared/zoos", "--set", item]
    with pytest.raises(UserError, match=said):
        run_cluster._submission(words).with_paths(here=False)


@pytest.mark.parametrize("store", ["s3://bucket/zoos", "/shared/zoos", "~/zoos"])
def test_a_path_that_means_the_same_everywhere_stays(store):
    words = ["train", QUICKSTART, "--store", store, "--set", "benchmark.dataset=idx:s3://b/mnist"]
    submission = run_cluster._submission(words)
    assert submission.with_paths(here=False) == submission


def test_somebody_elses_job_is_none_of_ours():
    for metadata in (None, {}, {"job_submission_id": "x"}, {"command": "train", "run": "x"}):
        assert Submission.from_metadata(metadata) is None
