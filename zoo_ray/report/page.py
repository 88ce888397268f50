"""One self-contained HTML page about runs, comparisons, searches, and competition studies."""

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from zoo_ray.counts import counted
from zoo_ray.errors import UserError
from zoo_ray.members.spec import RECIPE_DEFAULTS
from zoo_ray.outcomes import Spread, percent, spread_text
from zoo_ray.report.drawing import Drawing
from zoo_ray.report.drawings import (
    accuracy_drawing,
    bands_drawing,
    confusion_drawing,
    growth_drawing,
    matrix_drawing,
    members_drawing,
    transfer_drawing,
)
from zoo_ray.report.html import (
    PAGE,
    STYLE,
    cards,
    csv_bytes,
    figure_section,
    numbers,
    spread_cells,
    table,
    timeline_section,
)
from zoo_ray.report.study_sections import study_sections
from zoo_ray.report.whole import whole_file
from zoo_ray.stored import StoredRun
from zoo_ray.stored_studies import Study
from zoo_ray.zoo.metrics import Metrics


class Page(NamedTuple):
    """A report: the page, and its files by their names (figures, tables)."""

    html: str
    files: dict[str, bytes]

    def __repr__(self) -> str:
        return f"a page, and {len(self.files)} files"  # all of it would be in a notebook twice

    def write(self, folder: str | Path) -> Path:
        """Write `index.html` and the files; returns where the page is.

        Raises:
            UserError: it cannot be written; an earlier page stays as it was.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in (*self.files.items(), ("index.html", self.html.encode())):
                with whole_file(folder / name) as out:
                    out.write(content)
        except OSError as error:
            raise UserError(f"--out {folder}: cannot be written ({error.strerror})") from None
        return (folder / "index.html").resolve()

    def _repr_html_(self) -> str:
        """As a notebook shows it: in a frame, as the page's style is not the notebook's."""
        style = "width: 100%; height: 80vh; border: 0"
        return f'<iframe srcdoc="{escape(self.html)}" style="{style}"></iframe>'


def report_page(runs: Sequence[StoredRun], *, studies: Sequence[Study] = ()) -> Page:
    """The report of what a store holds.

    Args:
        runs: of several, the first is shown in full, beside a comparison of all.
        studies: shown before them, one of a kind at most. One thing at least is given.

    Raises:
        UserError: there are two studies of a kind, or nothing.
    """
    if len({type(study) for study in studies}) < len(studies) or not (runs or studies):
        raise UserError("a page shows runs, or one comparison, search or competition study")
    files: dict[str, bytes] = {}
    sections: list[str] = []
    title = " and ".join(dict.fromkeys(study.name for study in studies))
    for study in studies:
        sections += study_sections(study, files)
    grown = None if runs else next(filter(None, (study.first_run() for study in studies)), None)
    if grown is not None:
        sections.append(_configuration(grown))
    if len(runs) > 1:
        title = title or f"{len(runs)} runs"
        sections += _side_by_side(runs, files)
    if runs:
        first = runs[0]
        if title:
            sections.append(f"<h2 class=part>Run {escape(first.name)}</h2>")
        title = title or first.name
        sections += [
            _summary(first),
            *(figure_section(drawing, files) for drawing in run_drawings(first)),
        ]
        sections.append(
            timeline_section(
                first.timeline,
                files,
                name="timeline",
                episodes={member.digest: member.episode for member in first.members},
                missing="grown by an older zoo_ray, from members that were there, or as part of a "
                "comparison, whose report has it",
            )
        )
        sections += [_tasks(first, files), _configuration(first)]
    html = PAGE.format(title=escape(title), style=STYLE, body="\n".join(sections))
    return Page(html, files)


def run_drawings(run: StoredRun) -> list[Drawing]:
    """The figures of a run; but for the time line, which may have to be explained."""
    names = [task.name for task in run.tasks]
    beside = run.isolated()
    isolated = None if beside is None else np.diagonal(beside.accuracy)[: len(names)]
    drawn = [(member.episode, member.tasks) for member in run.members]
    found = [
        accuracy_drawing(run.accuracy, names, isolated),
        transfer_drawing(run.accuracy, names, isolated),
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
    shown = {
        name.replace("_", " "): percent(value)
        for name, value in run.metrics._asdict().items()
        if value is not None
    }
    unknown = int((run.counts[-1] == 0).sum())
    guess = f" No member knows {unknown} of them, which count as guessed." if unknown else ""
    so_far = (
        "" if run.grown else f" Not grown to its end: this is after episode {len(run.accuracy)}."
    )
    return (
        f"<p>A Model Zoo of {counted(len(run.members), 'member')} on "
        f"{counted(len(run.tasks), 'task')} ({escape(run.rules.mode)}, seed {run.rules.seed})."
        f"{so_far}{guess}</p>{cards(shown)}"
    )


def _tasks(run: StoredRun, files: dict[str, bytes]) -> str:
    arrival = np.isnan(run.accuracy).sum(axis=0)
    arriving = run.rules.arriving
    named = [
        (str(number), task.name, str(len(task.classes)), f"{run.counts[-1, number - 1]:.0f}")
        for number, task in enumerate(run.tasks, start=1)
    ]
    shares = [
        run.accuracy[[*([arrival[task]] if arriving else []), -1], task]
        for task in range(len(named))
    ]
    rows = [(*names, *map(percent, row)) for names, row in zip(named, shares, strict=True)]
    on_arrival = ("on arrival",) if arriving else ()
    header = ("", "task", "classes", "members", *on_arrival, "in the end")
    exactly = [(*names, *numbers(row)) for names, row in zip(named, shares, strict=True)]
    files["tasks.csv"] = csv_bytes(header, exactly)
    names = [task.name for task in run.tasks]
    files["accuracy.csv"] = csv_bytes(
        ("episode", *names),
        [(str(episode), *numbers(row)) for episode, row in enumerate(run.accuracy, start=1)],
    )
    files["members.csv"] = csv_bytes(
        ("episode", "tasks", "digest"),
        [
            (str(member.episode), "; ".join(names[t] for t in member.tasks), member.digest)
            for member in run.members
        ],
    )
    return f"<section><h2>Tasks</h2>{table(header, rows, named=2)}</section>"


def _side_by_side(runs: Sequence[StoredRun], files: dict[str, bytes]) -> list[str]:
    groups = _groups(runs)
    header = ("", "seeds", *(name.replace("_", " ") for name in Metrics._fields))
    spreads = {
        name: {m: Spread.of([getattr(run.metrics, m) for run in several]) for m in Metrics._fields}
        for name, several in groups.items()
    }
    rows = [
        (name, str(len(groups[name])), *map(spread_text, found.values()))
        for name, found in spreads.items()
    ]
    files["comparison.csv"] = csv_bytes(
        ("runs", "seeds", "metric", "mean", "sd", "by_seed"),
        [
            (name, str(len(groups[name])), metric, *spread_cells(spread))
            for name, found in spreads.items()
            for metric, spread in found.items()
            if spread is not None
        ],
    )
    matrices = {name: [run.accuracy for run in several] for name, several in groups.items()}
    return [
        f"<section>{table(header, rows)}</section>",
        figure_section(bands_drawing(matrices), files),
    ]


def _groups(runs: Sequence[StoredRun]) -> dict[str, list[StoredRun]]:
    """Runs that differ in their seed and the order of their tasks alone, by what tells them apart
    from others. Of two with the same ones, which are the same zoo, the first."""
    by_key: dict[str, dict[str, StoredRun]] = {}
    for run in runs:
        # As they are read, not as they were recorded: an older record lacks keys.
        rules = replace(run.rules, seed=0)
        recipe = RECIPE_DEFAULTS | run.record.recipe
        tasks = [task.digest for task in run.tasks]
        key = repr((sorted(tasks), rules, sorted(recipe.items())))
        by_key.setdefault(key, {}).setdefault(repr((run.rules.seed, tasks)), run)
    groups: dict[str, list[StoredRun]] = {}
    for several in map(list, map(dict.values, by_key.values())):
        seed = f".{several[0].rules.seed}"
        name = several[0].name.removesuffix(seed)
        groups[name if name not in groups else several[0].name] = several
    return groups


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
