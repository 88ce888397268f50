"""Tables for the terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from zoo_ray.zoo.growth import Growth
from zoo_ray.zoo.metrics import metrics


def result_table(growth: Growth, *, title: str) -> RenderableType:
    """Final accuracy of every task, what it was when the task arrived, and the metrics."""
    accuracy = growth.accuracy()
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    table.add_column("task", overflow="fold", min_width=8)
    for header in ("classes", "members", "on arrival", "in the end", "transfer"):
        table.add_column(header, justify="right", no_wrap=True)
    final = growth.episodes[-1]
    for task, labels in enumerate(growth.tasks):
        change = accuracy[-1, task] - accuracy[task, task]
        table.add_row(
            f"{task + 1}  {escape(labels.name)}",
            str(len(labels.classes)),
            str(final.members_of_task[task]),
            _percent(accuracy[task, task]),
            _percent(accuracy[-1, task]),
            f"{100 * change:+.2f}",
        )
    summary = Table.grid(padding=(0, 2))
    for name, value in metrics(accuracy)._asdict().items():
        summary.add_row(
            name.replace("_", " "), "-" if value is None else f"[bold]{_percent(value)}[/bold]"
        )
    return Group(table, summary)


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


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
