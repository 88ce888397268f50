"""What a store holds and what it needs, as tables."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from zoo_ray.store.records import RunSummary
from zoo_ray.store.upkeep import Findings, Garbage


def runs_table(runs: Sequence[RunSummary], *, title: str) -> Table:
    """The runs of a store."""
    table = _table(title, "run", "data set", "mode")
    for header in ("tasks", "episodes", "members", "size"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("written (UTC)", no_wrap=True)
    for run in runs:
        when = f"{run.modified:%Y-%m-%d %H:%M}"
        if run.record is None:
            cells = [f"[red]{escape(run.problem or '')}[/red]", *[""] * 4]
        else:
            dataset = str(run.record.config.get("benchmark", {}).get("dataset", "?"))
            mode = str(run.record.zoo.get("mode", "?"))
            numbers = (len(run.record.tasks), run.episodes, run.members)
            cells = [escape(dataset), escape(mode), *map(str, numbers)]
        table.add_row(escape(run.name), *cells, decimal(run.size_bytes), when)
    return table


def findings_table(findings: Findings, *, title: str) -> RenderableType:
    """What `verify` found."""
    looked = (
        f"{findings.members} members, {findings.runs} runs and {findings.checkpoints} checkpoints "
        "were read: "
    )
    if not findings.problems:
        return f"{looked}all is as it was written"
    table = _table(title, "what is wrong", "what to do")
    for problem in findings.problems:
        table.add_row(escape(problem.problem), escape(problem.advice))
    return Group(table, f"{looked}{len(findings.problems)} problems")


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
        when = f"{piece.modified:%Y-%m-%d %H:%M}"
        table.add_row(escape(piece.what), str(len(piece.paths)), decimal(piece.size_bytes), when)
    end = f"{size} removed" if removed else f"{size}; --yes removes it"
    return Group(table, end)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
