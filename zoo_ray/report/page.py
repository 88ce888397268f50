"""One self-contained HTML page about a run, or about several."""

import csv
import io
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import yaml

from zoo_ray.outcomes import Spread
from zoo_ray.report.drawings import (
    Drawing,
    accuracy_drawing,
    bands_drawing,
    confusion_drawing,
    growth_drawing,
    matrix_drawing,
    members_drawing,
    themed,
    transfer_drawing,
)
from zoo_ray.stored import StoredRun

_ORDER = ("average_accuracy", "learning_accuracy", "backward_transfer", "forgetting")


class Page(NamedTuple):
    """A report: the page, and its files by their names (figures, tables)."""

    html: str
    files: dict[str, bytes]


def report_page(runs: Sequence[StoredRun]) -> Page:
    """The report of runs.

    Args:
        runs: one at least; of several, the first is shown in full, beside a comparison of all.
    """
    first = runs[0]
    files: dict[str, bytes] = {}
    sections = [_summary(first) if len(runs) == 1 else _comparison(runs, files)]
    if len(runs) > 1:
        sections.append(f"<h2>Run {escape(first.name)}</h2>{_summary(first)}")
    sections += [_figure(drawing, files) for drawing in _drawings(first)]
    sections.append(_tasks(first, files))
    sections.append(_configuration(first))
    title = first.name if len(runs) == 1 else f"{len(runs)} runs"
    html = _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(sections))
    return Page(html, files)


def _drawings(run: StoredRun) -> list[Drawing]:
    names = [task.name for task in run.tasks]
    beside = run.isolated()
    isolated = None if beside is None else np.diagonal(beside.accuracy)
    drawn = [(member.episode, member.tasks) for member in run.members]
    found = [
        accuracy_drawing(run.accuracy, names, isolated),
        transfer_drawing(run.accuracy, names, isolated) if len(names) > 1 else None,
        matrix_drawing(run.accuracy, names),
        members_drawing(drawn, run.weights, names),
        growth_drawing(run.counts, run.accuracy, names),
    ]
    confusion = run.confusion()
    if confusion is not None:
        found.append(
            confusion_drawing(
                {
                    task.name: (task.classes, counts.astype(np.float64))
                    for task, counts in zip(run.tasks, confusion, strict=True)
                }
            )
        )
    return [drawing for drawing in found if drawing is not None]


# ---- parts of the page


def _summary(run: StoredRun) -> str:
    numbers = run.metrics
    cards = "".join(
        f"<div><dt>{name.replace('_', ' ')}</dt><dd>{_percent(getattr(numbers, name))}</dd></div>"
        for name in _ORDER
        if getattr(numbers, name) is not None
    )
    return (
        f"<p>A Model Zoo of {len(run.members)} members on {len(run.tasks)} tasks "
        f"({escape(run.rules.mode)}, seed {run.rules.seed}).</p><dl class=cards>{cards}</dl>"
    )


def _figure(drawing: Drawing, files: dict[str, bytes]) -> str:
    png, svg = drawing.render()
    shown = themed(svg, name=drawing.name)
    files[f"{drawing.name}.png"], files[f"{drawing.name}.svg"] = png, svg.encode()
    return (
        f"<section><h2>{escape(drawing.title)}</h2>"
        f'<figure role="img" aria-label="{escape(drawing.text)}">{shown}</figure>'
        f"<p class=caption>{escape(drawing.text)} {escape(drawing.caption)}</p></section>"
    )


def _tasks(run: StoredRun, files: dict[str, bytes]) -> str:
    arrival = np.isnan(run.accuracy).sum(axis=0)
    rows = [
        (
            str(number),
            task.name,
            str(len(task.classes)),
            f"{run.counts[-1, number - 1]:.0f}",
            _percent(run.accuracy[arrival[number - 1], number - 1]),
            _percent(run.accuracy[-1, number - 1]),
        )
        for number, task in enumerate(run.tasks, start=1)
    ]
    header = ("", "task", "classes", "members", "on arrival", "in the end")
    files["tasks.csv"] = _csv(header, rows)
    names = [task.name for task in run.tasks]
    files["accuracy.csv"] = _csv(
        ("episode", *names),
        [
            (str(episode), *("" if value != value else repr(value) for value in row))
            for episode, row in enumerate(run.accuracy.tolist(), start=1)
        ],
    )
    files["members.csv"] = _csv(
        ("episode", "tasks", "digest"),
        [
            (str(member.episode), "; ".join(names[t] for t in member.tasks), member.digest)
            for member in run.members
        ],
    )
    return f"<section><h2>Tasks</h2>{_table(header, rows)}</section>"


def _comparison(runs: Sequence[StoredRun], files: dict[str, bytes]) -> str:
    groups = _groups(runs)
    header = ("runs", "seeds", *(name.replace("_", " ") for name in _ORDER))
    rows = [
        (name, str(len(several)), *(_mean_of(several, metric) for metric in _ORDER))
        for name, several in groups.items()
    ]
    files["comparison.csv"] = _csv(header, rows)
    matrices = {name: [run.accuracy for run in several] for name, several in groups.items()}
    figure = _figure(bands_drawing(matrices), files)
    return f"<section>{_table(header, rows)}</section>{figure}"


def _groups(runs: Sequence[StoredRun]) -> dict[str, list[StoredRun]]:
    """Runs that differ in their seed alone, by what tells them apart from others."""
    by_key: dict[str, list[StoredRun]] = {}
    for run in runs:
        zoo = {key: value for key, value in run.record.zoo.items() if key != "seed"}
        key = repr((sorted(zoo.items()), sorted(run.record.recipe.items())))
        by_key.setdefault(key, []).append(run)
    groups: dict[str, list[StoredRun]] = {}
    for several in by_key.values():
        seed = f".{several[0].rules.seed}"
        name = several[0].name.removesuffix(seed)
        groups[name if name not in groups else several[0].name] = several
    return groups


def _mean_of(runs: Sequence[StoredRun], metric: str) -> str:
    spread = Spread.of([getattr(run.metrics, metric) for run in runs])
    if spread is None:
        return "-"
    mean = _percent(spread.mean)
    return mean if spread.sd is None else f"{mean} ± {100 * spread.sd:.2f}"


def _configuration(run: StoredRun) -> str:
    shown = {
        "benchmark": run.record.config.get("benchmark"),
        "recipe": run.record.recipe,
        "zoo": run.record.zoo,
        "versions": run.record.versions,
    }
    text = yaml.safe_dump(shown, sort_keys=False, default_flow_style=None, allow_unicode=True)
    return (
        "<section><h2>Configuration</h2><details><summary>as it was resolved</summary>"
        f"<pre>{escape(text)}</pre></details></section>"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue().encode()


def _percent(value: float) -> str:
    return f"{100 * value:.2f}%"


_STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --muted: #6b7280; --grid: #e5e7eb;
  --paper: #ffffff; --card: #f5f7fa; --accent: #3b6ea5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --muted: #9aa3b2; --grid: #333a47;
  --paper: #14171d; --card: #1d222b; --accent: #7fb0e6; } }
@media print { :root { color-scheme: light; } section { break-inside: avoid; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .7rem;
  margin: 1rem 0; }
.cards div { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; }
dt { color: var(--muted); font-size: .85rem; }
dd { margin: 0; font-size: 1.35rem; font-weight: 600; }
figure { margin: 0; overflow-x: auto; }
figure svg { width: 100%; min-width: 32rem; height: auto; max-height: 90vh; }
@media print { figure svg { min-width: 0; } }
.caption { color: var(--muted); font-size: .9rem; margin: .2rem 0 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--grid); }
th { color: var(--muted); font-weight: 500; font-size: .85rem; }
td:nth-child(-n+2), th:nth-child(-n+2) { text-align: left; }
pre { background: var(--card); border-radius: .5rem; padding: .8rem; overflow-x: auto;
  font-size: .8rem; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""
