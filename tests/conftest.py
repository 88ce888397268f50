"""Fixtures that several files share. That this file is here puts `toys` on the path."""

import importlib
import os
import shutil
import sys
import uuid

# Triton's interpreter runs the kernels for GPUs on this processor; it reads this when imported.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

import hypothesis
import pytest
from s3server import S3Server
from toys import write_idx_dataset

from zoo_ray.config import RunConfig, validate_config
from zoo_ray.store import Store

# The same examples in every run: a test that passes today passes tomorrow, on a slow machine too.
hypothesis.settings.register_profile("zoo_ray", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("zoo_ray")


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.fixture(scope="session")
def idx_dataset(tmp_path_factory):
    """Six classes of 28x28 images: 20 training and 6 test samples of each."""
    folder = tmp_path_factory.mktemp("data") / "toys"
    write_idx_dataset(folder, classes=6, train=20, test=6)
    return f"idx:{folder}"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """Started when the first test asks for it; its credentials are in the environment."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server
    server.kill()


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Writes a module of a user's; gives its name, which is no other's."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(source: str) -> str:
        name = f"user_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        importlib.invalidate_caches()
        return name

    return write


@pytest.fixture
def run_config(tmp_path, idx_dataset):
    """Makes the configuration of a tiny run; `recipe={...}` and so on override single keys."""

    def make(**sections) -> RunConfig:
        raw = {
            "benchmark": {"dataset": idx_dataset, "tasks": [[0, 1], [2, 3], [4, 5, 0]]},
            "recipe": {"epochs": 1, "batch": 8, "precision": "float32"},
            "zoo": {"tasks_per_member": 2},
            "workers": {"count": 0},
        }
        for name, keys in sections.items():
            raw[name] |= keys
        return validate_config(raw | {"store": str(tmp_path / "store")}, source="test")

    return make
