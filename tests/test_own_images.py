"""Folders of real images, written from data sets, and configs/own_images.yaml on them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import run_cluster
from zoo_ray.benchmarks import load_stream
from zoo_ray.config import BenchmarkConfig

CONFIG = Path(__file__).parents[1] / "configs" / "own_images.yaml"


def write_folder(folder, tasks, *, parts):
    """Write parts of tasks as PNG files: `parts` gives each part's folder."""
    for task in tasks:
        for name, part in task.parts():
            for row in range(len(part) if name in parts else 0):
                place = folder / parts[name] / task.classes[part.labels[row]]
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(part.images[row].squeeze()).save(place / f"{row:05}.png")


@pytest.fixture
def train(tmp_path, capfd):
    """Grows the zoo of configs/own_images.yaml on tasks of a folder; returns its JSON."""

    def run(folder, tasks):
        settings = [f"benchmark.dataset=folder:{folder}", f"benchmark.tasks={tasks}"]
        settings += ["recipe.epochs=1", "recipe.precision=float32"]
        options = [word for item in settings for word in ("--set", item)]
        options += ["--workers", "0", "--store", str(tmp_path / "store"), "--json"]
        code = run_cluster.main(["train", str(CONFIG), *options])
        out, err = capfd.readouterr()
        assert code == 0, err
        return json.loads(out)

    return run


def test_a_zoo_on_digits_in_folders_grows_on_with_a_new_folder(train, tmp_path):
    digits = load_stream(
        BenchmarkConfig(dataset="digits", tasks=[[1, 7], [3, 8], [0]], samples_per_class=40)
    )
    write_folder(tmp_path / "own", digits[:2], parts={"train": "."})
    first = train(tmp_path / "own", "[['1', '7'], ['3', '8']]")
    assert (first["members"], first["fitted"]) == (2, 2)
    assert first["average_accuracy"] > 0.5
    # The new folder is the first of all, so the numbers of the others are others.
    write_folder(tmp_path / "own", digits[2:], parts={"train": "."})
    second = train(tmp_path / "own", "[['1', '7'], ['3', '8'], ['0', '7']]")
    assert (second["members"], second["fitted"]) == (3, 1)
    assert second["accuracy"][:2] == [[*row, None] for row in first["accuracy"]]


def test_folders_of_cifar10_are_what_it_was(tmp_path):
    dataset = os.environ.get("ZOO_RAY_CIFAR10")
    if not dataset:
        pytest.skip("ZOO_RAY_CIFAR10 names no data set, such as parquet:/path")
    keys = {"tasks": [[3, 5], [0, 8, 9]], "samples_per_class": 50}
    stream = load_stream(BenchmarkConfig(dataset=dataset, **keys))
    write_folder(tmp_path, stream, parts={"train": "train", "test": "val"})
    dataset = f"folder:{tmp_path}"
    named = [["cat", "dog"], ["airplane", "ship", "truck"]]
    for tasks in (named, [[1, 2], [0, 3, 4]]):
        own = load_stream(BenchmarkConfig(dataset=dataset, tasks=tasks))
        for task, original in zip(own, stream, strict=True):
            assert task.classes == original.classes
            for (name, part), (_, whole) in zip(task.parts(), original.parts(), strict=True):
                # A folder holds one class after the other.
                order = np.argsort(whole.labels, kind="stable")
                np.testing.assert_array_equal(part.labels, whole.labels[order], err_msg=name)
                np.testing.assert_array_equal(part.images, whole.images[order], err_msg=name)
    (small,) = load_stream(BenchmarkConfig(dataset=dataset, tasks=[["cat"]], image_size=[8, 16]))
    assert (len(small.train), len(small.test), small.image_shape) == (50, 1000, (8, 16, 3))
