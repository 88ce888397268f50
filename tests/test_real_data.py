"""Zoos on real images, by the commands that a user types. Skipped where there are no such data:
set ZOO_RAY_CIFAR10 and ZOO_RAY_FASHION_MNIST to a `benchmark.dataset`, as parquet:PATH."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def train(config, variable, tmp_path, *overrides):
    dataset = os.environ.get(variable)
    if not dataset:
        pytest.skip(f"{variable} does not name a data set")
    settings = [f"benchmark.dataset={dataset}", "recipe.epochs=1", *overrides]
    command = [sys.executable, "run_cluster.py", "train", f"configs/{config}.yaml", "--json"]
    command += ["--store", str(tmp_path), *(word for item in settings for word in ("--set", item))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def test_split_cifar10_after_one_epoch(tmp_path):
    result = train("split_cifar10", "ZOO_RAY_CIFAR10", tmp_path, "zoo.tasks_per_member=2")
    # The mean of seeds 0 to 2 is 0.892; the original code reaches 0.890 with the same work.
    assert result["average_accuracy"] >= 0.88
    assert result["members"] == result["fitted"] == 5


def test_split_fashion_mnist_after_one_epoch(tmp_path):
    result = train("split_fashion_mnist", "ZOO_RAY_FASHION_MNIST", tmp_path)
    assert result["average_accuracy"] >= 0.97
