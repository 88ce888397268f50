"""Public data sets, downloaded by torchvision to where it would put them itself."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from zoo_ray.benchmarks.names import printable
from zoo_ray.errors import UserError


def download_idx(dataset: str, torchvisions: str, *, into: Path) -> None:
    """Download the four gzipped IDX files of MNIST, or of a data set made like it.

    Args:
        dataset: what configurations call it.
        torchvisions: its class in torchvision.
        into: folder for them.

    Raises:
        UserError: the download failed.
    """

    def fetch(scratch: Path) -> Path:
        from torchvision import datasets
        from torchvision.datasets.utils import download_url

        mnist = getattr(datasets, torchvisions)
        for filename, md5 in mnist.resources:
            _first_that_works(
                [partial(download_url, m + filename, scratch, filename, md5) for m in mnist.mirrors]
            )
        return scratch

    _download(dataset, fetch, into=into, instead="idx:PATH")


def _first_that_works(tries: Sequence[Callable[[], None]]) -> None:
    for attempt in tries[:-1]:
        with suppress(Exception):  # the next mirror may answer
            return attempt()
    return tries[-1]()


def download_cifar(dataset: str, torchvisions: str, *, into: Path) -> None:
    """Download the pickled batches of CIFAR-10 or CIFAR-100; as `download_idx`."""

    def fetch(scratch: Path) -> Path:
        from torchvision import datasets
        from torchvision.datasets.utils import download_and_extract_archive

        cifar = getattr(datasets, torchvisions)
        # Not CIFAR10(download=True): it would run the pickles. The archive is unpacked only once
        # its checksum fits, and torchvision lets no member of it leave the folder.
        download_and_extract_archive(cifar.url, scratch, filename=cifar.filename, md5=cifar.tgz_md5)
        return scratch / str(cifar.base_folder)

    _download(dataset, fetch, into=into, instead="parquet:PATH")


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
