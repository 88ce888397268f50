"""Configurations gone wrong in one to three places: each ends well, or in one line."""

import copy
import sys
import tempfile
from functools import reduce
from operator import getitem
from pathlib import Path
from urllib.error import URLError

import pytest
import torchvision.datasets.utils as torchvision_utils
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import run_cluster
from zoo_ray.config import read_config, validate_config

BASE = validate_config(
    {
        "benchmark": {"dataset": "idx:toys", "tasks": [[0, 1], [2, 3, 0]], "validation": 0.1},
        "recipe": {"epochs": 1, "batch": 8, "precision": "float32"},
        "workers": {"count": 0},
        "store": "kept/store",
    },
    source="BASE",
).model_dump(mode="json")

HOSTILE = [
    *("", " ", "auto", "null", "~", "true", "-", ".", "..", "-1", "1e400", "0x10", "a\0b"),
    *("two\nlines", "\x1b[31mred\x1b[0m", "[/bold]", "{0} %s", "\u2028", "\ud800", "\udcff", "🦓"),
    *("x" * 300, "y" * 5000, "~nobody-of-this-name/x", "run.yaml", "toys", "/dev/zero"),
    *("s3://bucket/path", "file:///x", "digits", "cifar10", "fashion_mnist", "idx:", "idx:.."),
    *("idx:/no/such", "idx:a\0b", "idx:~nobody-of-this-name", "parquet:toys", "parquet:/dev/null"),
    *("folder:toys", "folder:..", "npz:toys", "npz:run.yaml", "npz:/dev/zero", "arrays"),
    *("nonesuch:toys", "idx:\ud800", "parquet:" + "z" * 300, "kept", "small_conv", "isolated"),
]
INTEGERS = [*range(7), 5, 16, 1024, 10_000, 1_000_000, 2**62, 2**63, -1, -(10**40), 10**400]
FLOATS = [0.0, -0.0, 0.5, 0.999, 1.0, 1.5, 5e-324, 1e-30, 1e6, 1e308, -1e-9]
SCALARS = (
    st.sampled_from([None, True, False, *INTEGERS, *FLOATS, *HOSTILE])
    | st.floats()
    | st.integers()
    | st.text(max_size=12)
)
VALUES = SCALARS | st.recursive(
    SCALARS,
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.integers(), below, max_size=3)
    ),
    max_leaves=6,
)
# The edges of what is allowed: what is behind the first door is tried too.
EDGES = {
    "dataset": HOSTILE,
    "tasks": [[[0]], [[5, 4, 3, 2, 1, 0]] * 3, [[0, 1], [6]], [[2**62]], [[1]] * 60],
    "class": [0, 4, 5, 6, 2**62, 10**40],
    "validation": [0, 0.001, 0.5, 0.999999, 5e-324],
    "test_share": [5e-324, 0.5, 0.999999],
    "split_seed": [1, 2**63 - 1],
    "image_size": [8, 33, [28, 40], [84, 28], [8]],
    "data_dir": HOSTILE,
    "image_column": HOSTILE,
    "label_column": HOSTILE,
    "epochs": [2, 1_000_000],
    "batch": [1, 7, 1_000_000],
    "lr": [5e-324, 1, 1_000_000],
    "l2": [0, -0.0, 5e-324, 1_000_000],
    "augment": [True, False],
    "flip": [True, False],
    "precision": ["auto", "bfloat16"],
    "network": ["wrn10_1", "torch.nn.Flatten", "os.path.x", "no.such", "a..b", "__main__.x"],
    "network_arguments": [{"width": 3}, {"image_shape": 1}, {"1": 2}],
    "schedule": ["constant"],
    "average_flips": [True, 1],
    "threads": [2, 1024],
    "mode": ["isolated", "uniform", "multihead", "multitask"],
    "replay": [0.05, 0.3, 0.999999],
    "rounds": [1, 3],
    "warm_start": [True],
    "closing_rounds": [1, 3],
    "sharpness": [0, 5e-324, 100],
    "count_penalty": [5e-324, 2, 100],
    "tasks_per_member": [1, 3, 10_000],
    "members_per_episode": [3, 500],
    "seed": [1, 2**63 - 1],
    "count": [1, 2, 100_000, "auto"],
    "gpus": [0, 0.0001, 5e-324, 0.3, 2, 1024],
    "cpus": [0, 0.0001, 5e-324, 0.3, 1024],
    "checkpoint_s": [5e-324, 1_000_000],
    "fit_timeout_s": [5e-324, 1_000_000],
    "store": HOSTILE,
}
KEYS = st.sampled_from(
    [*("", "lr", "Lr", "epoch", "tasks", "count", "benchmark", "recipe", "zoo", "__class__", "int")]
) | st.text(max_size=8)


def places(raw):
    """The path of every value in nested dicts and lists."""
    keys = raw.keys() if isinstance(raw, dict) else range(len(raw))
    for key in keys:
        yield (key,)
        if isinstance(raw[key], dict | list):
            yield from ((key, *below) for below in places(raw[key]))


def value_for(draw, key):
    """Another value for a key: most often one that it may have."""
    edges = EDGES.get("class" if isinstance(key, int) else key)
    value = draw(st.sampled_from(edges) if edges and draw(st.integers(0, 4)) else VALUES)
    return copy.deepcopy(value)  # the next change may be inside it


def change(draw, raw, path):
    """Change the value at a path, or the keys or items beside it."""
    *above, last = path
    parent = reduce(getitem, above, raw)
    kind = draw(st.sampled_from(["replace"] * 9 + ["remove", "rename", "add", "nest", "repeat"]))
    if kind == "replace":
        parent[last] = value_for(draw, last)
    elif kind == "remove":
        del parent[last]
    elif kind == "nest":
        parent[last] = draw(st.sampled_from([[parent[last]], {"value": parent[last]}, {}, []]))
    elif kind == "repeat":
        parent[last] = [parent[last]] * draw(st.integers(0, 40))
    elif isinstance(parent, list):
        parent.insert(last, draw(VALUES))
    else:
        parent[draw(KEYS)] = parent.pop(last) if kind == "rename" else draw(VALUES)


KEYS_OF_BASE = [path for path in places(BASE) if all(isinstance(key, str) for key in path)]
KINDS = ["key"] * 12 + ["set"] * 6 + ["section", "option", "torn"]


@st.composite
def mutated(draw):
    """A configuration's text, and options of the command line: changed in one to three places."""
    raw, options = copy.deepcopy(BASE), []
    torn = False
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3)):
        if kind == "torn":
            torn = True
        elif kind == "option":
            option = draw(st.sampled_from(["name", "workers", "set"]))
            options.append(f"--{option}={draw(st.sampled_from(HOSTILE) | st.text(max_size=9))}")
        elif kind == "set":
            path = draw(st.sampled_from(KEYS_OF_BASE))
            value = value_for(draw, path[-1])
            text = yaml.safe_dump(value, default_flow_style=True, width=1e9)
            key = ".".join(str(part) for part in path)
            options.append("--set=" + key + "=" + text.removesuffix("...\n").strip())
        elif paths := [path for path in places(raw) if kind == "section" or len(path) > 1]:
            change(draw, raw, draw(st.sampled_from(paths)))
    text = yaml.safe_dump(raw, sort_keys=False)
    if torn:
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.integers(0, 9))
        text = text[:start] + draw(st.text(max_size=4)) + text[end:]
    return text, options


@pytest.fixture
def run(monkeypatch, tmp_path, idx_dataset, capfd):
    """Runs a command on a configuration in a folder of its own; returns exit code and stderr."""

    def no_network(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(torchvision_utils, "download_url", no_network)
    # What would start Ray cannot be imported.
    monkeypatch.setitem(sys.modules, "zoo_ray.cluster.session", None)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run_here(command, text, options):
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        monkeypatch.chdir(folder)
        (folder / "toys").symlink_to(idx_dataset.removeprefix("idx:"))
        (folder / "run.yaml").write_bytes(text.encode(errors="surrogatepass"))
        before = sorted(tmp_path.rglob("*"))
        code = run_cluster.main([command, "run.yaml", *options])
        out, err = capfd.readouterr()
        assert code in (0, 2)
        if code == 2:
            assert out == ""
            assert err.startswith("error: ")
            assert err.endswith("\n")
            assert err[:-1].isprintable()
            assert len(err) < 1100
        else:
            assert "Traceback" not in err
        after = sorted(tmp_path.rglob("*"))
        assert not [path for path in after if path.suffix == ".part"]
        return code, err, before == after

    return run_here


# The fixtures serve all examples of a test: each example has a folder of its own.
@given(mutated())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_check_of_a_mutated_configuration_ends_well_or_in_one_line(run, mutation):
    _, _, unchanged = run("check", *mutation)
    assert unchanged


@pytest.fixture
def little_work(monkeypatch):
    """Skips examples that would fit for long, or write outside the test's folder."""

    def read_little(*arguments, **keywords):
        config = read_config(*arguments, **keywords)
        members = len(config.benchmark.tasks) * config.zoo.members_per_episode
        assume(config.recipe.epochs <= 2 and config.recipe.threads <= 2 and members <= 6)
        assume(not config.store.startswith("/"))
        return config

    monkeypatch.setattr(run_cluster, "read_config", read_little)


@pytest.mark.usefixtures("little_work")
@given(mutated())
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_training_by_a_mutated_configuration_ends_well_or_in_one_line(run, mutation):
    text, options = mutation
    code, err, unchanged = run("train", text, [*options, "--workers=0"])
    # A fit that fails leaves the members that were fitted before it; a refusal leaves nothing.
    assert unchanged == (code == 2 and " of episode " not in err)
