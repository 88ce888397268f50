"""The data sets that a configuration can name."""

from collections.abc import Callable
from pathlib import Path

from zoo_ray.address import expanded, is_remote
from zoo_ray.benchmarks.arrays import read_npz
from zoo_ray.benchmarks.cifar import CIFAR10_FILES, CIFAR100_FILES, read_cifar10, read_cifar100
from zoo_ray.benchmarks.digits import read_digits
from zoo_ray.benchmarks.download import download_cifar, download_idx
from zoo_ray.benchmarks.folder import read_folder
from zoo_ray.benchmarks.idx import idx_files_exist, read_idx
from zoo_ray.benchmarks.mini_imagenet import MINI_IMAGENET_FILES, read_mini_imagenet
from zoo_ray.benchmarks.names import printable
from zoo_ray.benchmarks.parquet import read_parquet
from zoo_ray.benchmarks.remote import fetch
from zoo_ray.benchmarks.source import Source
from zoo_ray.config import BenchmarkConfig
from zoo_ray.errors import UserError

_FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def open_source(config: BenchmarkConfig) -> Source:
    """Open the data set that `config.dataset` names, downloading it where that is possible.

    Raises:
        UserError: no such data set, or its files are missing or damaged.
    """
    try:
        if config.dataset in _NAMED:
            return _NAMED[config.dataset](config)
        kind, colon, path = config.dataset.partition(":")
        if colon and kind in _READERS:
            if is_remote(path):
                return _READERS[kind](fetch(path, into=_data_dir(config)), config)
            return _READERS[kind](_existing(config.dataset, path), config)
    except OSError as error:
        why = printable(f"{error.strerror}: {error.filename}", limit=200)
        raise UserError(
            f"benchmark.dataset = {printable(config.dataset, limit=200)}: cannot be read ({why}); "
            "check the path and its permissions"
        ) from None
    if config.dataset == "arrays":
        raise UserError(
            "benchmark.dataset = arrays: they are given in Python (source=arrays_source(...)); "
            "give those of a file as npz:PATH"
        )
    raise UserError(
        f"benchmark.dataset = {printable(config.dataset)}: no such data set; allowed are "
        f"{', '.join(_NAMED)}, {', '.join(f'{kind}:PATH' for kind in _READERS)}"
    )


def _existing(dataset: str, path: str) -> Path:
    is_file = dataset.startswith("npz:")
    shown = printable(dataset, limit=200)
    if not path.strip():
        raise UserError(
            f"benchmark.dataset = {shown}: the path is empty; give that of the data, as in "
            f"{shown.rstrip()}data/my_images{'.npz' if is_file else ''}"
        )
    found = expanded(path, shown)
    if not (found.is_file() if is_file else found.is_dir()):
        raise UserError(
            f"benchmark.dataset = {shown}: no such {'file' if is_file else 'folder'}; give "
            f"{'a file of arrays' if is_file else 'the folder that holds the files'}, absolute or "
            f"relative to {Path.cwd()}"
        )
    return found


def _data_dir(config: BenchmarkConfig) -> Path:
    return expanded(config.data_dir, "benchmark.data_dir")


def _like_mnist(
    config: BenchmarkConfig, torchvisions: str, class_names: tuple[str, ...] | None = None
) -> Source:
    """A data set in MNIST's files; `torchvisions` is its class in torchvision."""
    folder = _data_dir(config) / torchvisions / "raw"
    if not idx_files_exist(folder):
        download_idx(config.dataset, torchvisions, into=folder)
    return read_idx(folder, class_names=class_names)


def _cifar10(config: BenchmarkConfig) -> Source:
    folder = _data_dir(config) / "cifar-10-batches-py"
    if not all((folder / name).is_file() for name in CIFAR10_FILES):
        download_cifar("cifar10", "CIFAR10", into=folder)
    return read_cifar10(folder)


def _cifar100(config: BenchmarkConfig) -> Source:
    folder = _data_dir(config) / "cifar-100-python"
    if not all((folder / name).is_file() for name in CIFAR100_FILES):
        download_cifar("cifar100", "CIFAR100", into=folder)
    return read_cifar100(folder)


def _mini_imagenet(config: BenchmarkConfig) -> Source:
    folder = _data_dir(config) / "mini_imagenet"
    for name in MINI_IMAGENET_FILES:
        if not (folder / name).is_file():
            raise UserError(
                f"benchmark.dataset = mini_imagenet: {folder / name} is missing; miniImageNet has "
                "no public download: put its three mini-imagenet-cache-*.pkl there "
                "(benchmark.data_dir)"
            )
    return read_mini_imagenet(folder)


def _parquet(folder: Path, config: BenchmarkConfig) -> Source:
    return read_parquet(
        folder,
        wanted={label for classes in config.tasks for label in classes},
        image_column=config.image_column,
        label_column=config.label_column,
        size=config.image_size,
    )


_NAMED: dict[str, Callable[[BenchmarkConfig], Source]] = {
    "digits": lambda _: read_digits(),
    "mnist": lambda config: _like_mnist(config, "MNIST"),
    "fashion_mnist": lambda config: _like_mnist(config, "FashionMNIST", _FASHION_MNIST_CLASSES),
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "mini_imagenet": _mini_imagenet,
}
_READERS: dict[str, Callable[[Path, BenchmarkConfig], Source]] = {
    "folder": lambda folder, config: read_folder(folder, size=config.image_size),
    "npz": lambda file, _: read_npz(file),
    "parquet": _parquet,
    "idx": lambda folder, _: read_idx(folder),
}
WITH_PATHS = tuple(_READERS)
"""The kinds of data that a path follows, as `folder:PATH`."""
