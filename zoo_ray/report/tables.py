"""Tables for the terminal."""

from collections.abc import Sequence

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from zoo_ray.outcomes import (
    Outcome,
    Spread,
    clear_shares,
    difference,
    difference_text,
    forward_transfer,
    percent,
    spread_text,
)
from zoo_ray.search.config import MEMBERS_PER_EPISODE, is_maximised
from zoo_ray.search.results import Findings, Row
from zoo_ray.search.space import value_text
from zoo_ray.zoo.competition import Competition
from zoo_ray.zoo.growth import Growth


def result_table(growth: Growth, *, title: str) -> RenderableType:
    """Final accuracy of every task, what it was when the task arrived, and the metrics."""
    accuracy = growth.accuracy()
    arriving = growth.rules.arriving
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    table.add_column("task", overflow="fold", min_width=8)
    for header in (
        *("classes", "members"),
        *(("on arrival",) if arriving else ()),
        "in the end",
        *(("transfer",) if arriving else ()),
    ):
        table.add_column(header, justify="right", no_wrap=True)
    final = growth.episodes[-1]
    for task, labels in enumerate(growth.tasks):
        end = accuracy[-1, task]
        cells = [percent(end)]
        if arriving:
            arrival = accuracy[task, task]
            cells = [percent(arrival), percent(end), f"{100 * (end - arrival):+z.2f}"]
        elif not final.members_of_task[task]:
            cells = [f"{percent(end)} (a guess: no member knows it)"]
        table.add_row(
            f"{task + 1}  {escape(labels.name)}",
            str(len(labels.classes)),
            str(final.members_of_task[task]),
            *cells,
        )
    summary = Table.grid(padding=(0, 2))
    for name, value in growth.metrics()._asdict().items():
        summary.add_row(
            name.replace("_", " "), "-" if value is None else f"[bold]{percent(value)}[/bold]"
        )
    return Group(table, summary)


def comparison_table(outcomes: Sequence[Outcome], *, title: str) -> RenderableType:
    """Mean and standard deviation of the metrics over the seeds, and what each contender took."""
    first = outcomes[0]
    table = Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    # No column is cut, as 90 is not 90k. A min_width would push the last one out of the table.
    table.add_column("", overflow="fold")
    for header in (
        "average\naccuracy",
        "minus\nthe first",
        "learning\naccuracy",
        "forward\ntransfer",
        "backward\ntransfer",
        "images",
    ):
        table.add_column(header, justify="right", overflow="fold")
    lines: list[RenderableType] = [table]
    for outcome in outcomes:
        if outcome.problem is not None:
            lines.append(f"[red]{escape(outcome.name)} failed[/red]: {escape(outcome.problem)}")
            continue
        table.add_row(
            escape(outcome.name),
            f"[bold]{_spread(outcome.spread('average_accuracy'))}[/bold]",
            _difference(None if outcome is first else difference(outcome, first)),
            _spread(outcome.spread("learning_accuracy")),
            _spread(forward_transfer(outcome, outcomes), sign="+"),
            _spread(outcome.spread("backward_transfer"), sign="+"),
            _thousands(outcome.images),
        )
        if outcome.guessed:
            lines.append(
                f"{escape(outcome.name)}: no member knows {outcome.guessed} of its tasks, which "
                "count as guessed"
            )
    seeds = len(first.runs)
    if seeds > 1:
        lines.append(
            f"in %, mean ± standard deviation over {seeds} seeds; differences are paired by seed, "
            "and *: their mean's 95% interval (Student's t) leaves out 0"
        )
    if any(forward_transfer(outcome, outcomes) for outcome in outcomes):
        lines.append("forward transfer: learning accuracy minus Isolated's")
    return Group(*lines)


COMPETITION_HEADER = ("alone", "gains", "most from", "least from", "gives")


def competition_rows(
    mean: Competition, by_seed: Sequence[Competition]
) -> list[tuple[str, str, str, str, str]]:
    """For each task what `COMPETITION_HEADER` says."""
    helped, helps = ([getattr(one, kind) for one in by_seed] for kind in ("helped", "helps"))
    rows = []
    for task, row in enumerate(mean.gain):
        best, worst = int(np.nanargmax(row)), int(np.nanargmin(row))
        rows.append(
            (
                percent(mean.alone[task]),
                difference_text(Spread.of([float(gains[task]) for gains in helped])),
                f"{best + 1} ({100 * row[best]:+z.2f})",
                f"{worst + 1} ({100 * row[worst]:+z.2f})",
                difference_text(Spread.of([float(gains[task]) for gains in helps])),
            )
        )
    return rows


def gains_line(mean: Competition, by_seed: Sequence[Competition]) -> str:
    """In how many of the cases there is a gain, and in how many it is clear."""
    line = f"in {100 * mean.positive_share:.0f}% of the cases there is a gain"
    if len(by_seed) > 1:
        gains, losses = clear_shares([one.gain for one in by_seed])
        line += f" (clearly in {100 * gains:.0f}%, clearly a loss in {100 * losses:.0f}%)"
    return line


def competition_table(
    mean: Competition, *, by_seed: Sequence[Competition], tasks: Sequence[str], title: str
) -> RenderableType:
    """What each task gains from others, and gives to them, and where most is gained and lost."""
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    table.add_column("task", overflow="fold", min_width=8)
    for header in COMPETITION_HEADER:
        table.add_column(header, justify="right", overflow="fold")
    rows = competition_rows(mean, by_seed)
    for number, (name, row) in enumerate(zip(tasks, rows, strict=True), start=1):
        table.add_row(f"{number}  {escape(name)}", *(cell.replace(" ± ", "±") for cell in row))
    lines = [
        "gained by fitting a task together with another, in percentage points of test accuracy",
        f"{gains_line(mean, by_seed)}; mean difference of the two directions "
        f"{100 * mean.asymmetry:.2f}",
    ]
    if len(by_seed) > 1:
        lines.append(
            f"mean ± standard deviation over {len(by_seed)} seeds; *, and clearly: the mean's 95% "
            "interval (Student's t) leaves out 0"
        )
    return Group(table, *lines)


def _thousands(number: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= 10 * size:
            return f"{number / size:.0f}{unit}"
    return f"{number:.0f}"


def _spread(spread: Spread | None, *, sign: str = "") -> str:
    return spread_text(spread, sign=sign).replace(" ", "")  # a terminal is narrow


def _difference(spread: Spread | None) -> str:
    return difference_text(spread).replace(" ", "")


_MOST_ROWS = 30


def search_table(
    rows: Sequence[Row],
    found: Findings | None,
    *,
    keys: Sequence[str],
    metric: str,
    title: str,
) -> RenderableType:
    """Trials, best first, with what they cost, and which of them stand out."""
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    for header in trial_header(keys, metric):
        table.add_column(
            escape(header.replace(" ", "\n")),  # on one line it would take the room of others
            justify="right" if header else "left",
            overflow="fold",
        )
    ordered = best_first(rows, metric)
    front = found.front if found else []
    shown = ordered[:_MOST_ROWS]
    for row in [*shown, *(row for row in front if row not in shown)]:
        style = {"failed": "red", "complete": None}.get(row.status, "dim")
        if found and row in (found.best, found.near):
            style = "bold green" if row is found.best else "green"
        table.add_row(*map(escape, trial_cells(row, found, keys)), style=style)
    lines: list[RenderableType] = [table]
    if len(ordered) > len(shown):
        lines.append(f"{len(ordered) - len(shown)} more in trials.parquet")
    if any(row.prefix for row in rows):
        lines.append("trial 3.1: the zoo of trial 3's first member of each episode")
    return Group(*lines)


def trial_header(keys: Sequence[str], metric: str) -> list[str]:
    """What `trial_cells` are."""
    names = [*(key.rpartition(".")[2] for key in keys), "members", "images", metric]
    return ["trial", *(name.replace("_", " ") for name in names), ""]


def trial_cells(row: Row, found: Findings | None, keys: Sequence[str]) -> list[str]:
    """A trial: what it tried, what it costs, what came of it."""
    values = [
        str(row.members_per_episode) if key == MEMBERS_PER_EPISODE else value_text(row.values[key])
        for key in keys
    ]
    score = "-" if row.score != row.score else percent(row.score)
    return [row.name, *values, str(row.members), f"{row.images:,}", score, _remark(row, found)]


def best_first(rows: Sequence[Row], metric: str) -> list[Row]:
    """Complete trials, the best first and of equals the cheapest, then the others."""
    sign = 1 if is_maximised(metric) else -1
    complete = [row for row in rows if row.status == "complete"]
    complete.sort(key=lambda row: (-sign * row.score, row.images))
    return [*complete, *(row for row in rows if row.status != "complete")]


def _remark(row: Row, found: Findings | None) -> str:
    if row.status == "failed":
        return f"failed: {row.problem or ''}"
    if row.status != "complete":
        return f"{row.status} at episode {row.episodes}"
    if found is None:
        return ""
    remarks = {
        "best": row is found.best,
        "as good, and cheapest": row is found.near and row is not found.best,
        "front": any(row is other for other in found.front),
    }
    return ", ".join(remark for remark, is_so in remarks.items() if is_so)


def task_table(rows: Sequence[Sequence[str]]) -> Table:
    """The tasks of a stream: name, class names, samples of each part."""
    table = Table(title="Tasks, in order of arrival", title_justify="left", title_style="bold")
    for header in ("task", "classes"):
        table.add_column(header)
    for header in ("train", "validation", "test"):
        table.add_column(header, justify="right")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table
