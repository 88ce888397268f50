"""What a store holds and what it needs, as tables."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from zoo_ray.counts import counted
from zoo_ray.store.records import NamedFolder, RunSummary
from zoo_ray.store.upkeep import Garbage, Verification


def runs_table(
    runs: Sequence[RunSummary], others: Mapping[str, Sequence[NamedFolder]], *, title: str
) -> RenderableType:
    """The runs of a store and what else people name in it, by kind; below, what is wrong with runs
    that cannot be read."""
    table = _table(title, "run", "data set")
    for header in ("episodes", "members", "size", "written (UTC)"):
        table.add_column(header, justify="right", no_wrap=True)
    for run in runs:
        cells = ["[red]cannot be read[/red]", "", ""]
        if run.record is not None:
            dataset = str(run.record.config.get("benchmark", {}).get("dataset", ""))
            of = run.record.episodes or len(run.record.tasks)
            episodes = f"{run.episodes} of {of}"
            cells = [escape(dataset), episodes, str(run.members)]
        table.add_row(escape(run.name), *cells, decimal(run.size_bytes), _minute(run.modified))
    for folders in others.values():
        for it in folders:
            what = f"{escape(it.name)} [dim]({it.what})[/dim]"
            table.add_row(what, "", "", "", decimal(it.size_bytes), _minute(it.modified))
    problems = [f"{run.name}: {run.problem}" for run in runs if run.problem]
    return Group(table, *(Text(problem, overflow="fold") for problem in problems))


def findings_text(findings: Verification) -> str:
    """What `verify` found: a line per problem, one for what to do, and the sum."""
    lines = [line for found in findings.problems for line in (found.problem, f"  {found.advice}")]
    kinds = ("members", "runs", "checkpoints")
    read = ", ".join(counted(getattr(findings, kind), kind[:-1]) for kind in kinds)
    found = counted(len(findings.problems), "problem") if findings.problems else "all sound"
    return "\n".join([*lines, f"{read}: {found}"])


def garbage_table(garbage: Sequence[Garbage], *, title: str, removed: bool) -> RenderableType:
    """What `collect` found."""
    size = decimal(sum(piece.size_bytes for piece in garbage))
    if not garbage:
        return "nothing is old and referred to by nobody"
    table = _table(title, "what")
    table.add_column("files", justify="right")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("written (UTC)", no_wrap=True)
    for piece in garbage:
        cells = str(len(piece.paths)), decimal(piece.size_bytes), _minute(piece.modified)
        table.add_row(escape(piece.what), *cells)
    end = f"{size} removed" if removed else f"{size}; --yes removes it"
    return Group(table, end)


def _minute(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", min_width=10)
    return table
