"""Downloads, with torchvision's function replaced: no test needs a network."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torchvision.datasets.utils as torchvision_utils
from test_cifar import load, write_cifar10
from test_idx import write_idx

from zoo_ray.benchmarks import load_stream
from zoo_ray.config import BenchmarkConfig
from zoo_ray.errors import UserError


@pytest.mark.parametrize(
    ("dataset", "folder", "instead"),
    [
        ("fashion_mnist", "FashionMNIST/raw", "idx:PATH"),
        ("mnist", "MNIST/raw", "idx:PATH"),
        ("cifar10", "cifar-10-batches-py", "parquet:PATH"),
        ("cifar100", "cifar-100-python", "parquet:PATH"),
    ],
)
@pytest.mark.parametrize(
    "error",
    [
        URLError("Name or service\nnot known"),
        RuntimeError("File not found or corrupted."),
        OSError(28, "No space left on device"),
        ConnectionResetError(),
    ],
)
def test_a_failed_download_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dataset: str,
    folder: str,
    instead: str,
    error: Exception,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torchvision_utils, "download_url", fail)
    with pytest.raises(UserError) as caught:
        load_stream(BenchmarkConfig(dataset=dataset, tasks=[[0]], data_dir=str(tmp_path)))
    message = str(caught.value)
    assert message.startswith(f"benchmark.dataset = {dataset}: its files are not in {tmp_path}")
    assert folder in message
    assert instead in message
    assert "\n" not in message
    assert list(tmp_path.rglob("*")) == []


def test_fashion_mnist_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def download(url: str, root: Path, filename: str, md5: str) -> None:
        assert url.endswith(filename)
        assert len(md5) == 32
        fetched.append(filename)
        write_idx(tmp_path / "mirror", rename=lambda name: name + ".gz")
        os.replace(tmp_path / "mirror" / filename, root / filename)

    monkeypatch.setattr(torchvision_utils, "download_url", download)
    data_dir = tmp_path / "deep" / "data"
    config = BenchmarkConfig(dataset="fashion_mnist", tasks=[[0, 1]], data_dir=str(data_dir))
    first = load_stream(config)
    assert len(fetched) == 4
    assert load_stream(config)[0].digest == first[0].digest
    assert len(fetched) == 4


def test_cifar10_is_downloaded_without_running_its_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(url: str, root: Path, *, filename: str, md5: str) -> None:
        assert url.endswith(filename)
        assert len(md5) == 32
        write_cifar10(root)

    monkeypatch.setattr(torchvision_utils, "download_and_extract_archive", download)
    assert load(tmp_path).classes == ("cat", "truck")


def test_a_data_dir_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(UserError, match=r"the download failed .*Not a directory"):
        load(tmp_path / "data")


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    script = """
import sys
from zoo_ray.benchmarks import load_stream
from zoo_ray.config import BenchmarkConfig
heavy = {"torch", "torchvision", "pyarrow", "PIL", "sklearn"}
print(sorted(heavy & sys.modules.keys()))
load_stream(BenchmarkConfig(dataset="digits", tasks=[[0, 1]]))
print(sorted({"torch", "torchvision"} & sys.modules.keys()))
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert run.stdout.splitlines() == ["[]", "[]"]
