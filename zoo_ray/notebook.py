"""zoo_ray from Python: what the command line does, and what has come of it."""

import contextlib
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from zoo_ray import comparison, competition, run, tuning
from zoo_ray.benchmarks import Source
from zoo_ray.config import RunConfig, as_items, read_config, shown
from zoo_ray.errors import UserError
from zoo_ray.progress import Progress, SearchProgress
from zoo_ray.rules import Mode
from zoo_ray.search.config import SearchConfig, read_search
from zoo_ray.search.trials import Trials
from zoo_ray.store import Store, comparison_folder, search_folder
from zoo_ray.stored import StoredRun
from zoo_ray.stored_studies import (
    StoredComparison,
    StoredCompetition,
    StoredSearch,
    Study,
    find_studies,
)

if TYPE_CHECKING:
    from zoo_ray.report.drawing import Drawing
    from zoo_ray.report.live import Live
    from zoo_ray.report.page import Page

C = TypeVar("C", RunConfig, SearchConfig)
P = TypeVar("P", bound=Callable[..., None])
S = TypeVar("S", StoredComparison, StoredCompetition, StoredSearch)


def grow(
    config: RunConfig | str | Path,
    *,
    name: str | None = None,
    address: str | None = None,
    source: Source | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> StoredRun:
    """Grow a zoo, or go on growing it, as `run_cluster.py train` does.

    Args:
        config: a configuration (`zoo_ray.read_config`), or the path of its YAML file.
        name: of the run in the store; None: the file's, or `run`.
        address: of a Ray cluster; None: a local Ray, unless `workers.count` is 0.
        source: the data, where `benchmark.dataset` is `arrays`.
        on_progress: called about twice a second; None: progress is shown.

    Returns:
        The run, read from the store.

    Raises:
        UserError: anything outside the program is not as it must be; see the message.
    """
    config, name = _named(config, name, read=read_config, kind=RunConfig, otherwise="run")
    with _told(on_progress, lambda live: live.update) as told:
        run.grow(config, name=name, address=address, source=source, on_progress=told)
    return open(config.store, name)


def compare(
    config: RunConfig | str | Path,
    *,
    modes: Sequence[Mode] = (),
    vary: Sequence[str | Sequence[str]] = (),
    seeds: Sequence[int] | None = None,
    shuffle: bool = False,
    name: str | None = None,
    address: str | None = None,
    source: Source | None = None,
    on_progress: Callable[[SearchProgress, int], None] | None = None,
) -> StoredComparison:
    """Grow zoos of several modes, values and seeds side by side, as `run_cluster.py compare` does.

    Args:
        config: as of `grow`.
        modes: what is compared: the configuration in each of these; none given: in its own, and,
            unless something is varied, as Isolated and Multi-head.
        vary: also the configuration with other values: each `key.key=value`, or several of these.
        seeds: of each one's zoos; None: `zoo.seed`.
        shuffle: whether the tasks arrive in another order with each seed.
        name: of the comparison; None: the file's, or `comparison`.
        address, source: as of `grow`.
        on_progress: called about twice a second, with how many members all zoos have; None:
            progress is shown.

    Returns:
        The comparison, read from the store. A contender that could not be grown has a `problem`.

    Raises:
        UserError: anything outside the program is not as it must be, or no zoo could be grown; see
            the message.
    """
    config, name = _named(config, name, read=read_config, kind=RunConfig, otherwise="comparison")
    contenders = comparison.contenders_of(
        config,
        modes=as_items(modes, name="modes"),
        varied=[as_items(items, name="vary") for items in as_items(vary, name="vary")],
    )
    with _told(on_progress, lambda live: live.update_comparison) as told:
        comparison.compare(
            config,
            contenders=contenders,
            seeds=_seeds(config, seeds),
            name=name,
            shuffle=shuffle,
            address=address,
            source=source,
            on_progress=told,
        )
    return _study(config.store, name, StoredComparison)


def compete(
    config: RunConfig | str | Path,
    *,
    seeds: Sequence[int] | None = None,
    name: str | None = None,
    address: str | None = None,
    source: Source | None = None,
    on_progress: Callable[[SearchProgress, int], None] | None = None,
) -> StoredCompetition:
    """Find what tasks do for each other, pair by pair, as `run_cluster.py compete` does.

    Args:
        config, seeds, address, source, on_progress: as of `compare`.
        name: of the study; None: the file's, or `competition`.

    Returns:
        The study, read from the store.

    Raises:
        UserError: anything outside the program is not as it must be; see the message.
    """
    config, name = _named(config, name, read=read_config, kind=RunConfig, otherwise="competition")
    with _told(on_progress, lambda live: live.update_comparison) as told:
        competition.compete(
            config,
            seeds=_seeds(config, seeds),
            name=name,
            address=address,
            source=source,
            on_progress=told,
        )
    return _study(config.store, name, StoredCompetition)


def tune(
    config: SearchConfig | str | Path,
    *,
    name: str | None = None,
    address: str | None = None,
    source: Source | None = None,
    on_progress: Callable[[SearchProgress, Trials], None] | None = None,
) -> StoredSearch:
    """Search, as `run_cluster.py tune` does.

    Args:
        config: a search's configuration (`zoo_ray.read_search`), or the path of its YAML file.
        name: of the search; None: the file's, or `search`.
        address: of a Ray cluster; None: a local Ray.
        source: as of `grow`.
        on_progress: called about twice a second; None: progress is shown.

    Returns:
        The search, read from the store.

    Raises:
        UserError: anything outside the program is not as it must be; see the message.
    """
    config, name = _named(config, name, read=read_search, kind=SearchConfig, otherwise="search")
    with _told(on_progress, lambda live: partial(live.update_search, config=config)) as told:
        tuning.search(config, name=name, address=address, source=source, on_progress=told)
    return _study(config.base.store, name, StoredSearch)


def open(store: str | Path, name: str) -> StoredRun:
    """Read a run, as far as it has grown.

    Args:
        store: address of the store: a folder, `s3://` or `gs://`.
        name: of the run.

    Raises:
        UserError: there is no such run, it has no episode yet, or it cannot be read.
    """
    opened = Store(os.fspath(store))
    if opened.read_run(name) is None and _is_study(opened, name):
        raise UserError(
            f"store {opened.shown}: {name!r} is no run; zoo_ray.open_study reads what compare, "
            "compete or tune recorded"
        )
    return StoredRun(opened, name, grown=False)


def open_study(store: str | Path, name: str) -> Study:
    """Read what `compare`, `compete` or `tune` has recorded; where a comparison and a search have
    one name, the comparison.

    Args:
        store: as of `open`.
        name: of the comparison, study or search.

    Raises:
        UserError: there is none, it has not ended yet, or it cannot be read.
    """
    opened = Store(os.fspath(store))
    studies = find_studies(opened, name)
    if not studies and opened.read_run(name) is not None:
        raise UserError(f"store {opened.shown}: {name!r} is a run; zoo_ray.open reads it")
    if not studies:
        raise UserError(
            f"store {opened.shown}: no comparison, search or competition study {name!r}; "
            "run_cluster.py runs shows what there is"
        )
    return studies[0]


def figures(found: StoredRun | Study) -> "dict[str, Drawing]":
    """The figures of a report, by name; a notebook shows each as a picture.

    Raises:
        UserError: a table of a run cannot be read.
    """
    from zoo_ray.report.page import run_drawings  # imports matplotlib
    from zoo_ray.report.study_sections import study_drawings

    draw = run_drawings(found) if isinstance(found, StoredRun) else study_drawings(found)
    return {drawing.name: drawing for drawing in draw}


def page(*found: StoredRun | Study) -> "Page":
    """The report, as `run_cluster.py report` writes it; a notebook shows it.

    Args:
        found: of several runs the first is shown in full, beside a comparison of all; one thing
            at least.

    Raises:
        UserError: a table of a run cannot be read, or there are two studies of a kind, or nothing.
    """
    from zoo_ray.report.page import report_page  # imports matplotlib

    runs = [one for one in found if isinstance(one, StoredRun)]
    return report_page(runs, studies=[one for one in found if not isinstance(one, StoredRun)])


def _named(
    config: C | str | Path,
    name: str | None,
    *,
    read: Callable[[str | Path], C],
    kind: type[C],
    otherwise: str,
) -> tuple[C, str]:
    """A configuration, read if it is a file's, and the name of what is grown from it."""
    if isinstance(config, kind):
        return config, name or otherwise
    if not isinstance(config, str | PathLike):
        raise UserError(
            f"config: {shown(config)}; give a configuration, as of zoo_ray.{read.__name__}, or the "
            "path of its YAML file"
        )
    return read(config), name or Path(config).stem


def _seeds(config: RunConfig, seeds: Iterable[int] | None) -> list[int]:
    if seeds is None:
        return [config.zoo.seed]
    try:
        found = [operator.index(seed) for seed in seeds]  # numpy's whole numbers, too
    except TypeError:
        found = []
    if not found:
        raise UserError(f"seeds: {shown(seeds)}; give whole numbers, as [0, 1, 2]")
    return found


@contextlib.contextmanager
def _told(on_progress: P | None, show: "Callable[[Live], P]") -> Iterator[P]:
    """Who is told of progress: the caller's own, or who looks at the terminal or the notebook."""
    if on_progress is not None:
        yield on_progress
        return
    with _live() as live:
        yield show(live)


def _live() -> "Live":
    from rich.console import Console

    from zoo_ray.report.live import Live

    return Live(Console(stderr=True))


def _is_study(store: Store, name: str) -> bool:
    folders = (comparison_folder(name), search_folder(name))
    return any(next(store.files.list(folder), None) for folder in folders)


def _study(store: str, name: str, kind: type[S]) -> S:
    return next(study for study in find_studies(Store(store), name) if isinstance(study, kind))
