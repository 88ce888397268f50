"""The parts of a page about comparisons, and about studies of task competition."""

from collections.abc import Sequence
from html import escape
from itertools import chain

import numpy as np

from zoo_ray.outcomes import difference_text, spread_text
from zoo_ray.report.drawings import bands_drawing
from zoo_ray.report.html import (
    METRICS,
    cards,
    csv_bytes,
    figure_section,
    numbers,
    percent,
    spread_cells,
    table,
    timeline_section,
)
from zoo_ray.report.studies import (
    competition_drawing,
    contenders_drawing,
    tasks_drawing,
    together_drawing,
)
from zoo_ray.report.tables import COMPETITION_HEADER, competition_rows, gains_line
from zoo_ray.stored import StoredRun
from zoo_ray.stored_studies import StoredComparison, StoredCompetition, StoredStudy
from zoo_ray.zoo.boosting import Floats


def competition_sections(study: StoredCompetition, files: dict[str, bytes]) -> list[str]:
    """What tasks do for each other; the figures' and tables' files go to `files`."""
    mean, names = study.mean, study.tasks
    shown = {
        "mean gain": f"{100 * float(np.nanmean(mean.gain)):+.2f}",
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
    return [
        f"<p>What {len(names)} tasks do for each other: members on one task and on every pair "
        f"({seeds}); gains in percentage points of test accuracy.</p>{cards(shown)}",
        figure_section(competition_drawing(mean, study.by_seed, names), files),
        f"<section>{table(header, rows, named=2)}{clear}</section>",
        figure_section(together_drawing(study.together, names), files),
        _timeline(study, files, name="competition-timeline"),
    ]


def comparison_sections(study: StoredComparison, files: dict[str, bytes]) -> list[str]:
    """Contenders side by side; the figures' and tables' files go to `files`."""
    grown = [
        (contender, spread, several)
        for contender, several in zip(study.contenders, study.runs, strict=True)
        if contender.problem is None and (spread := contender.average_accuracy) is not None
    ]
    header = (
        *("", "members", "images", "average accuracy", "minus the first", "learning accuracy"),
        *("forward transfer", "backward transfer"),
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
        )
        for number, (contender, *_) in enumerate(grown)
    ]
    files["contenders.csv"] = csv_bytes(
        ("contender", "members", "images", "metric", "mean", "sd", "by_seed"),
        [
            (
                *(c.name, str(c.members), repr(c.images), metric),
                *spread_cells(spread),
            )
            for c, *_ in grown
            for metric in (*METRICS, "difference", "forward_transfer")
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
    sections = [
        f"<p>{len(study.contenders)} ways to grow a zoo, side by side. Each zoo is a run of its "
        f"own, as {escape(study.run_names[0])}.</p>"
        f"<section>{table(header, rows)}<p class=caption>In %{over}; differences, and forward "
        f"transfer (learning accuracy minus Isolated's), are paired by seed.{clear}{orders}</p>"
        f"</section>{failed}"
    ]
    if grown:
        drawing = contenders_drawing(
            [contender.name for contender, *_ in grown],
            [spread.by_seed for _, spread, _ in grown],
            [contender.images for contender, *_ in grown],
        )
        sections.append(figure_section(drawing, files))
    runs = {contender.name: several for contender, _, several in grown if several}
    if runs:
        matrices = {name: [run.accuracy for run in several] for name, several in runs.items()}
        sections.append(figure_section(bands_drawing(matrices, name="bands"), files))
        names = [task.name for task in next(iter(runs.values()))[0].tasks]
        final = np.array([_final(several, names).mean(axis=0) for several in runs.values()])
        sections.append(figure_section(tasks_drawing(list(runs), final, names), files))
        files["by-task.csv"] = csv_bytes(
            ("contender", *names),
            [(name, *numbers(values)) for name, values in zip(runs, final, strict=True)],
        )
    return [*sections, _timeline(study, files, name="comparison-timeline")]


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
