"""The published benchmarks: each file of configs/benchmarks, read from small files in the true
formats, and the published code's own configuration files."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_cifar import write_cifar10
from test_idx import idx_bytes, write_idx

import run_cluster
from zoo_ray.benchmarks import load_stream
from zoo_ray.benchmarks.mini_imagenet import MINI_IMAGENET_FILES
from zoo_ray.benchmarks.warp import permutation, rotate
from zoo_ray.config import BenchmarkConfig, read_config
from zoo_ray.errors import UserError
from zoo_ray.members.spec import Recipe
from zoo_ray.plan import plan_run
from zoo_ray.rules import Rules

CONFIGS = Path(__file__).parents[2] / "configs"
BENCHMARKS = CONFIGS / "benchmarks"


def write_mnist(data_dir):
    rng = np.random.default_rng(0)
    files = {}
    for split, samples in (("train", 40), ("t10k", 20)):
        images = rng.integers(1, 256, (samples, 28, 28), dtype=np.uint8)
        files[f"{split}_images_idx3_ubyte"] = idx_bytes(images)
        files[f"{split}_labels_idx1_ubyte"] = idx_bytes((np.arange(samples) % 10).astype(np.uint8))
    write_idx(data_dir / "MNIST" / "raw", **files)


def write_cifar100(data_dir, *, names=True):
    folder = data_dir / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, samples in (("train", 300), ("test", 100)):
        labels = [row % 100 for row in range(samples)]
        batch = {
            b"filenames": [b"x.png"] * samples,
            b"fine_labels": labels,
            b"coarse_labels": [0] * samples,
            b"data": rng.integers(0, 256, (samples, 3072), dtype=np.uint8),
        }
        (folder / split).write_bytes(pickle.dumps(batch, protocol=2))
    fine = [f"class {number}".encode() for number in range(100 if names else 99)]
    meta = {b"fine_label_names": fine, b"coarse_label_names": [b"?"] * 20}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))


def write_mini_imagenet(data_dir, *, per_class=5):
    folder = data_dir / "mini_imagenet"
    folder.mkdir(parents=True)
    first = 0
    for name, classes in zip(MINI_IMAGENET_FILES, (64, 16, 20), strict=True):
        images = np.zeros((classes * per_class, 84, 84, 3), dtype=np.uint8)
        for row in range(len(images)):
            images[row] = first + row // per_class  # the class
            images[row, 0, 0] = row % per_class
        rows = {
            f"n{first + number:08d}": list(range(per_class * number, per_class * (number + 1)))
            for number in range(classes)
        }
        content = {"image_data": images, "class_dict": rows}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        first += classes
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """All public data sets, small, where torchvision would put them."""
    folder = tmp_path_factory.mktemp("data")
    for write in (write_mnist, write_cifar10, write_cifar100, write_mini_imagenet):
        write(folder)
    return folder


def load(name, data_dir, **keys):
    raw = yaml.safe_load((BENCHMARKS / f"{name}.yaml").read_text(encoding="utf-8"))
    return load_stream(BenchmarkConfig(**raw, data_dir=str(data_dir), **keys))


SHAPES = {
    "split_mnist": (5, 2, (28, 28, 1)),
    "rotated_mnist": (5, 10, (28, 28, 1)),
    "rotated_mnist_20": (20, 10, (28, 28, 1)),
    "permuted_mnist": (5, 10, (28, 28, 1)),
    "permuted_mnist_20": (20, 10, (28, 28, 1)),
    "split_cifar10": (5, 2, (32, 32, 3)),
    "split_cifar100": (20, 5, (32, 32, 3)),
    "coarse_cifar100": (20, 5, (32, 32, 3)),
    "split_miniimagenet": (20, 5, (84, 84, 3)),
}


def test_every_file_is_known():
    assert {path.stem for path in BENCHMARKS.iterdir()} == SHAPES.keys()


@pytest.mark.parametrize("name", SHAPES)
def test_a_benchmark_has_its_tasks(name, data_dir):
    tasks, classes, shape = SHAPES[name]
    stream = load(name, data_dir)
    assert [len(task.classes) for task in stream] == [classes] * tasks
    assert {task.image_shape for task in stream} == {shape}
    assert len({task.digest for task in stream}) == tasks
    if not name.startswith(("rotated", "permuted")):
        every = [name for task in stream for name in task.classes]
        assert len(every) == len(set(every)) == tasks * classes


def test_classes_have_the_names_of_the_files(data_dir):
    assert load("split_cifar100", data_dir)[1].classes[0] == "class 5"
    assert load("coarse_cifar100", data_dir)[0].classes[1] == "class 30"
    assert load("split_miniimagenet", data_dir)[13].classes[0] == "n00000065"
    assert load("split_mnist", data_dir)[4].classes == ("8", "9")


def test_rotated_and_permuted_digits(data_dir):
    plain = load("split_mnist", data_dir)
    turned, mixed = load("rotated_mnist", data_dir)[4], load("permuted_mnist", data_dir)[4]
    eights = plain[4].train.images[plain[4].train.labels == 0]
    np.testing.assert_array_equal(
        turned.train.images[turned.train.labels == 8], rotate(eights, degrees=40)
    )
    np.testing.assert_array_equal(
        mixed.train.images[mixed.train.labels == 8].reshape(-1, 784),
        eights.reshape(-1, 784)[:, permutation(784, number=4)],
    )


def test_of_each_class_of_mini_imagenet_the_last_fifth_is_for_testing(data_dir):
    task = load("split_miniimagenet", data_dir)[3]
    assert (len(task.train), len(task.test)) == (20, 5)
    for part, rows in ((task.train, {0, 1, 2, 3}), (task.test, {4})):
        assert set(part.images[:, 0, 0, 0]) == rows
        np.testing.assert_array_equal(part.images[:, 5, 5, 1], 15 + part.labels)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.pop("image_data"), "its 'image_data' is no uint8 array"),
        (lambda content: content.update(image_data=content["image_data"][:-1]), "of equal size"),
        (lambda content: content.pop("class_dict"), "does not name 16 classes"),
        (lambda content: content["class_dict"].update(n00000064=[0, 1, 2, 3, 79]), "in the order"),
        (lambda content: content["class_dict"].update(n00000064=[]), "in the order"),
        (lambda content: content["class_dict"].update(n00000064=[None]), "in the order"),
        (lambda content: content["class_dict"].update(n00000064="x"), "in the order"),
    ],
)
def test_another_cache_is_refused(tmp_path, change, said):
    path = write_mini_imagenet(tmp_path) / MINI_IMAGENET_FILES[1]
    content = pickle.loads(path.read_bytes())
    change(content)
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match=f"val.pkl: not a cache of miniImageNet .*{said}"):
        load("split_miniimagenet", tmp_path)


def test_caches_that_do_not_go_together_are_refused(tmp_path):
    whole, other = (write_mini_imagenet(tmp_path / n, per_class=int(n)) for n in ("5", "10"))
    (whole / MINI_IMAGENET_FILES[0]).write_bytes((other / MINI_IMAGENET_FILES[0]).read_bytes())
    with pytest.raises(UserError, match="not of the size of those in the other files"):
        load("split_miniimagenet", tmp_path / "5")


def test_a_missing_cache_is_asked_for(tmp_path):
    with pytest.raises(UserError, match=r"mini-imagenet-cache-train.pkl is missing; .* no public"):
        load("split_miniimagenet", tmp_path)


def test_cifar100_without_all_names_is_refused(tmp_path):
    write_cifar100(tmp_path, names=False)
    with pytest.raises(UserError, match=r"meta: .*'fine_label_names' is no list of 100 names"):
        load("split_cifar100", tmp_path)


# ---- the published code's notebook


NOTEBOOK = CONFIGS / "coarse_cifar100_notebook.yaml"


def test_the_notebooks_protocol(data_dir):
    plan = plan_run(read_config(NOTEBOOK, overrides=[f"benchmark.data_dir={data_dir}"]))
    coarse = load("coarse_cifar100", data_dir)
    assert [task.digest for task in plan.tasks] == [task.digest for task in coarse[:15]]
    assert plan.rules == Rules(15, "continual", 5, 1, 0)
    assert plan.recipe == Recipe(
        network="small_conv",
        epochs=5,
        batch=32,
        lr=0.01,
        l2=1e-5,
        crop=False,
        flip=False,
        precision="float32",  # of whatever machine
        threads=1,
        schedule="constant",
    )


@pytest.mark.slow
def test_the_notebooks_protocol_runs(data_dir, tmp_path, capfd):
    options = ["--set", f"benchmark.data_dir={data_dir}", "--set", "recipe.epochs=1", "--json"]
    store = ["--workers", "0", "--store", str(tmp_path)]
    assert run_cluster.main(["train", str(NOTEBOOK), *options, *store]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["episodes"] == result["members"] == result["fitted"] == 15


# ---- the published code's own files

ROTATED = """
# For label 10x + y,
# y=label and 10x=rot. angle
dataset: "rotated_mnist"
tasks: [[0,  1,  2,  3],
        [20, 21, 22, 29]]
"""
CONV = 'model: "conv"\nbatch: 16\nlr: 0.01\nl2_reg: 0.00001\n'


def test_its_files_load_unchanged(tmp_path, data_dir):
    (tmp_path / "data.yaml").write_text(ROTATED)
    (tmp_path / "hp.yaml").write_text(CONV)
    (tmp_path / "run.yaml").write_text("benchmark: data.yaml\nrecipe: hp.yaml\n")
    config = read_config(tmp_path / "run.yaml", overrides=[f"benchmark.data_dir={data_dir}"])
    assert config.benchmark.dataset == "mnist"
    assert config.benchmark.tasks == [[0, 1, 2, 3], [0, 1, 2, 9]]
    assert config.benchmark.rotate == [0, 20]
    assert (config.recipe.network, config.recipe.l2, config.recipe.lr) == ("small_conv", 1e-5, 0.01)
    assert load_stream(config.benchmark)[1].name == "0, 1, 2, 9 turned 20°"
    assert read_config(tmp_path / "run.yaml", overrides=["recipe.l2=0.5"]).recipe.l2 == 0.5
    permuted = ROTATED.replace("rotated", "permuted")
    (tmp_path / "data.yaml").write_text(permuted)
    assert read_config(tmp_path / "run.yaml").benchmark.permute == [0, 2]


@pytest.mark.parametrize(
    ("data", "hp", "said"),
    [
        (ROTATED.replace("29", "39"), CONV, r"task x has the classes 10 x \+ y of the digits y"),
        (ROTATED.replace("29", "x"), CONV, "task x has the classes"),
        (ROTATED + "rotate: [1, 2]\n", CONV, "says rotate itself; use mnist with rotate"),
        (ROTATED, CONV + "l2: 1\n", "l2_reg and l2 are the same"),
        (ROTATED, CONV.replace("conv", "vgg"), "recipe.network = 'vgg'"),
    ],
)
def test_what_it_would_not_have_is_refused(tmp_path, data, hp, said):
    (tmp_path / "data.yaml").write_text(data)
    (tmp_path / "hp.yaml").write_text(hp)
    (tmp_path / "run.yaml").write_text("benchmark: data.yaml\nrecipe: hp.yaml\n")
    with pytest.raises(UserError, match=said):
        read_config(tmp_path / "run.yaml")


# ---- classes by name


def test_classes_may_be_named(data_dir):
    keys = {"dataset": "cifar10", "data_dir": str(data_dir)}
    named = load_stream(BenchmarkConfig(tasks=[["cat", 9]], **keys))
    numbered = load_stream(BenchmarkConfig(tasks=[[3, 9]], **keys))
    assert named[0].digest == numbered[0].digest
    assert named[0].name == "cat, truck"


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([["cat"], ["lynx"]], r"task 2 names class 'lynx', which no class of cifar10 is called \("),
        ([["cat", 3]], r"task 1 names class 3 \(cat\) twice"),
    ],
)
def test_a_name_that_is_nobodys_is_refused(data_dir, tasks, said):
    config = BenchmarkConfig(dataset="cifar10", tasks=tasks, data_dir=str(data_dir))
    with pytest.raises(UserError, match=said):
        load_stream(config)
