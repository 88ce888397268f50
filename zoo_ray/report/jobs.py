"""Jobs of a cluster, as a table and as text."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from zoo_ray.cluster.jobs import SubmittedJob

_EXCERPT_LINES = 5
_COLOURS = {"failed": "red", "succeeded": "green", "running": "bold"}


def jobs_table(jobs: Sequence[SubmittedJob], *, title: str) -> RenderableType:
    """Jobs, one a line."""
    if not jobs:
        return f"{escape(title)}: no jobs; `submit` makes one"
    table = Table(title=escape(title), title_justify="left", pad_edge=False)
    table.add_column("job", no_wrap=True)
    for header in ("run", "state"):
        table.add_column(header, overflow="fold")
    for header in ("done", "accuracy", "left"):
        table.add_column(header, justify="right", no_wrap=True)
    for job in jobs:
        colour = _COLOURS.get(job.state)
        line = job.line
        table.add_row(
            escape(job.id),
            escape(job.submission.name),
            f"[{colour}]{job.state}[/{colour}]" if colour else job.state,
            line.done if line else "",
            f"{line.accuracy}%" if line and line.accuracy else "",
            line.left if line and line.left and not job.is_over else "",
        )
    return table


def job_text(job: SubmittedJob) -> str:
    """All that is known of a job."""
    submission, line = job.submission, job.line
    took = None if job.started is None else (job.ended or time.time()) - job.started
    rows = [
        ("job", job.id),
        ("run", f"{submission.name} ({submission.command})"),
        ("store", submission.store),
        ("state", _state(job)),
        ("started", None if job.started is None else f"{_utc(job.started)} UTC"),
        ("took" if job.is_over else "for", took and str(timedelta(seconds=round(took)))),
        ("done", line and line.done),
        ("accuracy", line and line.accuracy and f"{line.accuracy}%"),
        ("time left", None if job.is_over else line and line.left),
    ]
    return "\n".join(f"{escape(key):10} {escape(value)}" for key, value in rows if value)


def _state(job: SubmittedJob) -> str:
    """Its state and why, the end of an excerpt of its log on lines of their own."""
    lines = [line.rstrip() for line in job.message.splitlines() if line.strip()]
    first = ": ".join([job.state, *lines[:1]])
    return "\n           ".join([first, *lines[1:][-_EXCERPT_LINES:]])


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
