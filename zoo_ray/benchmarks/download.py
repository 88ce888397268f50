"""Public data sets, downloaded by torchvision to where it would put them itself."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zoo_ray.benchmarks.names import printable
from zoo_ray.errors import UserError


def download_fashion_mnist(folder: Path) -> None:
    """Download Fashion-MNIST's four gzipped IDX files into `folder`.

    Raises:
        UserError: the download failed.
    """

    def fetch(scratch: Path) -> Path:
        from torchvision.datasets import FashionMNIST
        from torchvision.datasets.utils import download_url

        for filename, md5 in FashionMNIST.resources:
            download_url(FashionMNIST.mirrors[0] + filename, scratch, filename, md5)
        return scratch

    _download("fashion_mnist", fetch, into=folder, instead="idx:PATH")


def download_cifar10(folder: Path) -> None:
    """Download CIFAR-10's pickled batches into `folder`.

    Raises:
        UserError: the download failed.
    """

    def fetch(scratch: Path) -> Path:
        from torchvision.datasets import CIFAR10
        from torchvision.datasets.utils import download_and_extract_archive

        # Not CIFAR10(download=True): it would run the pickles. The archive is unpacked only once
        # its checksum fits, and torchvision lets no member of it leave the folder.
        download_and_extract_archive(
            CIFAR10.url, scratch, filename=CIFAR10.filename, md5=CIFAR10.tgz_md5
        )
        return scratch / str(CIFAR10.base_folder)

    _download("cifar10", fetch, into=folder, instead="parquet:PATH")


def _download(dataset: str, fetch: Callable[[Path], Path], *, into: Path, instead: str) -> None:
    try:
        # Files reach their place whole or not at all, whoever else is downloading the same.
        with (
            _made(into),
            tempfile.TemporaryDirectory(prefix=".download-", dir=into.parent) as scratch,
        ):
            for file in fetch(Path(scratch)).iterdir():
                os.replace(file, into / file.name)
    except Exception as error:  # no network, no room, no torchvision: the way out is the same
        why = printable(str(error) or type(error).__name__, limit=160)
        raise UserError(
            f"benchmark.dataset = {dataset}: its files are not in {into}, and the download failed "
            f"({why}); try again with a network, put the files there (benchmark.data_dir), or "
            f"give your own as {instead}"
        ) from None


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder, and those above it; where the block fails, remove those that were missing."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):  # not made, or others have put files there
                path.rmdir()
        raise
