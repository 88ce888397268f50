"""The parts of a page about comparisons, searches, and studies of task competition."""

from collections.abc import Sequence
from html import escape
from itertools import chain
from typing import NamedTuple

import numpy as np

from zoo_ray.outcomes import difference_text, percent, spread_text
from zoo_ray.report.drawing import Drawing
from zoo_ray.report.drawings import bands_drawing
from zoo_ray.report.html import (
    cards,
    csv_bytes,
    figure_section,
    numbers,
    spread_cells,
    table,
    timeline_section,
)
from zoo_ray.report.study_drawings import (
    competition_drawing,
    contenders_drawing,
    search_drawings,
    tasks_drawing,
    together_drawing,
)
from zoo_ray.report.tables import (
    COMPETITION_HEADER,
    best_first,
    competition_rows,
    gains_line,
    trial_cells,
    trial_header,
)
from zoo_ray.stored import StoredRun
from zoo_ray.stored_studies import (
    ContenderRecord,
    StoredComparison,
    StoredCompetition,
    StoredSearch,
    StoredStudy,
    Study,
)
from zoo_ray.zoo.boosting import Floats
from zoo_ray.zoo.metrics import Metrics

_MOST_TRIALS = 100


def study_sections(study: Study, files: dict[str, bytes]) -> list[str]:
    """What a study has shown; the figures' and tables' files go to `files`."""
    if isinstance(study, StoredCompetition):
        return _competition_sections(study, files)
    if isinstance(study, StoredSearch):
        return _search_sections(study, files)
    return _comparison_sections(study, files)


def study_drawings(study: Study) -> list[Drawing]:
    """The figures of a study; but for the time line, which may have to be explained."""
    if isinstance(study, StoredCompetition):
        return [
            competition_drawing(study.mean, study.by_seed, study.tasks),
            together_drawing(study.together, study.tasks),
        ]
    if isinstance(study, StoredSearch):
        found = study.findings
        return (
            found and search_drawings(study.rows, found, study.importance, metric=study.metric)
        ) or []
    grown, by_task = _grown(study), _by_task(study)
    if not grown:
        return []
    drawings = [
        contenders_drawing(
            [each.contender.name for each in grown],
            [each.accuracy for each in grown],
            [each.contender.images for each in grown],
        )
    ]
    if by_task is not None:
        matrices = {
            each.contender.name: [run.accuracy for run in each.runs] for each in grown if each.runs
        }
        drawings += [bands_drawing(matrices, name="bands"), tasks_drawing(*by_task)]
    return drawings


def _competition_sections(study: StoredCompetition, files: dict[str, bytes]) -> list[str]:
    mean, names = study.mean, study.tasks
    shown = {
        "mean gain": f"{100 * float(np.nanmean(mean.gain)):+z.2f}",
        "cases with a gain": f"{100 * mean.positive_share:.0f}%",
        "asymmetry": f"{100 * mean.asymmetry:.2f}",
        "mean accuracy alone": percent(float(mean.alone.mean())),
    }
    seeds = f"mean of {len(study.by_seed)} seeds" if len(study.by_seed) > 1 else "one seed"
    rows = [
        (str(number), name, *row)
        for number, (name, row) in enumerate(
            zip(names, competition_rows(mean, study.by_seed), strict=True), start=1
        )
    ]
    header = ("", "task", *COMPETITION_HEADER)
    clear = (
        "<p class=caption>Mean ± standard deviation over the seeds; *, and clearly: the mean's 95% "
        f"interval (Student's t) leaves out 0. {gains_line(mean, study.by_seed).capitalize()}.</p>"
        if len(study.by_seed) > 1
        else ""
    )
    for file, matrix in (("competition", mean.gain), ("together", study.together)):
        files[f"{file}.csv"] = csv_bytes(
            ("", *names),
            [
                (name if file == "competition" else str(number), *numbers(values))
                for number, (name, values) in enumerate(zip(names, matrix, strict=True), start=1)
            ],
        )
    gains, together = study_drawings(study)
    return [
        f"<p>What {len(names)} tasks do for each other: members on one task and on every pair "
        f"({seeds}); gains in percentage points of test accuracy.</p>{cards(shown)}",
        figure_section(gains, files),
        f"<section>{table(header, rows, named=2)}{clear}</section>",
        figure_section(together, files),
        _timeline(study, files, name="competition-timeline"),
    ]


def _search_sections(study: StoredSearch, files: dict[str, bytes]) -> list[str]:
    found = study.findings
    trials = [row for row in study.rows if not row.prefix]
    asked = [digest for row in trials for digest in row.digests]
    words = study.metric.replace("_", " ")
    seeds = max(len(row.scores) for row in study.rows)
    over = f", mean of {seeds} seeds" if seeds > 1 else ""
    shown = {"trials": f"{len(trials)}"}
    if found is not None:
        shown |= {
            f"best {words}": percent(found.best.score),
            "test accuracy of the best": "-"
            if study.test_accuracy is None
            else percent(study.test_accuracy),
        }
    shown["fits shared"] = f"{100 * (1 - len(set(asked)) / len(asked)):.0f}%" if asked else "-"
    header = trial_header(study.keys, study.metric)
    cells = [trial_cells(row, found, study.keys) for row in best_first(study.rows, study.metric)]
    records = study.records()
    files["trials.csv"] = csv_bytes(
        list(records[0]),
        # NaN, which alone is not equal to itself: there is no number.
        [["" if value != value else str(value) for value in r.values()] for r in records],
    )
    caption = (
        "Best first. Images: what a trial's members are fitted on, which is what it would take "
        "alone. Front: no trial beats it for as much or less."
    )
    if any(row.prefix for row in study.rows):
        caption += " Trial 3.1: the zoo of trial 3's first member of each episode."
    if len(cells) > _MOST_TRIALS:
        caption += f" {len(cells) - _MOST_TRIALS} more are in trials.csv."
    best = (
        f"<section><h2>The best</h2><details><summary>as train takes it</summary>"
        f"<pre>{escape(study.best)}</pre></details></section>"
    )
    return [
        f"<p>A search over {escape(', '.join(study.keys))}: {len(trials)} trials, judged by "
        f"{escape(words)}{over}.</p>{cards(shown)}",
        *(figure_section(drawing, files) for drawing in study_drawings(study)),
        f"<section><h2>Trials</h2>{table(header, cells[:_MOST_TRIALS])}<p class=caption>"
        f"{caption}</p></section>",
        best if study.best else "",
        _timeline(study, files, name="search-timeline"),
    ]


class _Grown(NamedTuple):
    """A contender that could be grown: its accuracy by seed, and its runs that can still be
    read."""

    contender: ContenderRecord
    accuracy: Sequence[float]
    runs: Sequence[StoredRun]


def _grown(study: StoredComparison) -> list[_Grown]:
    return [
        _Grown(contender, contender.average_accuracy.by_seed, several)
        for contender, several in zip(study.contenders, study.runs, strict=True)
        if contender.problem is None and contender.average_accuracy is not None
    ]


def _by_task(study: StoredComparison) -> tuple[list[str], Floats, list[str]] | None:
    """Contenders, their accuracy on each task in the end, mean over seeds, and tasks; None: no run
    can be read any more."""
    runs = {each.contender.name: each.runs for each in _grown(study) if each.runs}
    if not runs:
        return None
    tasks = [task.name for task in next(iter(runs.values()))[0].tasks]
    final = np.array([_final(several, tasks).mean(axis=0) for several in runs.values()])
    return list(runs), final, tasks


def _comparison_sections(study: StoredComparison, files: dict[str, bytes]) -> list[str]:
    contenders = [each.contender for each in _grown(study)]
    header = (
        *("", "members", "images", "average accuracy", "minus the first", "learning accuracy"),
        *("forward transfer", "backward transfer", "forgetting"),
    )
    rows = [
        (
            contender.name,
            f"{contender.members:,}",
            f"{contender.images:,.0f}",
            spread_text(contender.average_accuracy),
            difference_text(contender.difference) if number else "-",
            spread_text(contender.learning_accuracy),
            spread_text(contender.forward_transfer, sign="+"),
            spread_text(contender.backward_transfer, sign="+"),
            spread_text(contender.forgetting),
        )
        for number, contender in enumerate(contenders)
    ]
    files["contenders.csv"] = csv_bytes(
        ("contender", "members", "images", "metric", "mean", "sd", "by_seed"),
        [
            (
                *(c.name, str(c.members), repr(c.images), metric),
                *spread_cells(spread),
            )
            for c in contenders
            for metric in (*Metrics._fields, "difference", "forward_transfer")
            if (spread := getattr(c, metric)) is not None
        ],
    )
    seeds = max(len(contender.runs) for contender in study.contenders)
    over = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
    clear = " *: the 95% interval of the mean (Student's t) leaves out 0." if seeds > 1 else ""
    failed = "".join(
        f"<p>{escape(c.name)} failed: {escape(c.problem)}</p>"
        for c in study.contenders
        if c.problem
    )
    streams = {tuple(task.digest for task in run.tasks) for run in chain(*study.runs)}
    orders = " Each seed has its tasks in another order." if len(streams) > 1 else ""
    if (by_task := _by_task(study)) is not None:
        names, final, tasks = by_task
        files["by-task.csv"] = csv_bytes(
            ("contender", *tasks),
            [(name, *numbers(values)) for name, values in zip(names, final, strict=True)],
        )
    return [
        f"<p>{len(study.contenders)} ways to grow a zoo, side by side. Each zoo is a run of its "
        f"own, as {escape(study.run_names[0])}.</p>"
        f"<section>{table(header, rows)}<p class=caption>In %{over}; differences, and forward "
        f"transfer (learning accuracy minus Isolated's), are paired by seed.{clear}{orders}</p>"
        f"</section>{failed}",
        *(figure_section(drawing, files) for drawing in study_drawings(study)),
        _timeline(study, files, name="comparison-timeline"),
    ]


def _final(runs: Sequence[StoredRun], names: Sequence[str]) -> Floats:
    """Accuracy in the end, shape (runs, tasks), of tasks by name: runs may have other orders."""
    by_name = [dict(zip([t.name for t in r.tasks], r.accuracy[-1], strict=True)) for r in runs]
    return np.array([[accuracy[name] for name in names] for accuracy in by_name])


def _timeline(study: StoredStudy, files: dict[str, bytes], *, name: str) -> str:
    return timeline_section(
        study.timeline,
        files,
        name=name,
        episodes=None,
        missing="the members were fitted by an older zoo_ray, or for other runs",
    )
