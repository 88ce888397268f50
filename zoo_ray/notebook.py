"""zoo_ray from Python, as the command line does it: `zoo_ray.grow`, `open` and `figures`."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_ray import run
from zoo_ray.benchmarks import Source
from zoo_ray.config import RunConfig, read_config, shown
from zoo_ray.errors import UserError
from zoo_ray.progress import Progress
from zoo_ray.store import Store
from zoo_ray.stored import StoredRun

if TYPE_CHECKING:
    from zoo_ray.report.drawings import Drawing


def grow(
    config: RunConfig | str | Path,
    *,
    name: str | None = None,
    address: str | None = None,
    source: Source | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> StoredRun:
    """Grow a zoo, or go on growing it, as `run_cluster.py train` does.

    Args:
        config: a configuration (`zoo_ray.read_config`), or the path of its YAML file.
        name: of the run in the store; None: the file's, or `run`.
        address: of a Ray cluster; None: a local Ray, unless `workers.count` is 0.
        source: the data, where `benchmark.dataset` is `arrays`.
        on_progress: called about twice a second.

    Returns:
        The run, read from the store.

    Raises:
        UserError: anything outside the program is not as it must be; see the message.
    """
    if not isinstance(config, RunConfig):
        if not isinstance(config, str | PathLike):
            raise UserError(
                f"config: {shown(config)}; give a configuration, as of zoo_ray.read_config, or the "
                "path of its YAML file"
            )
        name = Path(config).stem if name is None else name
        config = read_config(config)
    name = "run" if name is None else name
    run.grow(config, name=name, address=address, source=source, on_progress=on_progress)
    return open(config.store, name)


def open(store: str, name: str) -> StoredRun:
    """Read a grown run.

    Args:
        store: address of the store: a folder, `s3://` or `gs://`.
        name: of the run.

    Raises:
        UserError: there is no such run, it is not grown yet, or it cannot be read.
    """
    return StoredRun(Store(store), name)


def figures(run: StoredRun) -> "dict[str, Drawing]":
    """The figures of a run's report, by name; a notebook shows each as a picture.

    Raises:
        UserError: a table of the run cannot be read.
    """
    from zoo_ray.report.page import run_drawings  # imports matplotlib

    return {drawing.name: drawing for drawing in run_drawings(run)}
