"""The figures of comparisons, of searches, and of studies of task competition."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from zoo_ray.outcomes import percent
from zoo_ray.report.drawing import (
    BLUE,
    INK,
    MUTED,
    RED,
    SLANTED,
    Drawing,
    in_order,
    label_ends,
    new_axes,
    short_names,
    whole_numbers,
    whole_ticks,
    write_numbers,
)
from zoo_ray.search.config import is_maximised
from zoo_ray.search.results import Findings, Row, judged
from zoo_ray.search.space import value_text
from zoo_ray.zoo.boosting import Floats
from zoo_ray.zoo.competition import Competition


def contenders_drawing(
    names: Sequence[str], by_seed: Sequence[Sequence[float]], images: Sequence[float]
) -> Drawing:
    """Average accuracy of each contender, and the images that its zoos were fitted on."""

    def draw() -> Figure:
        figure, axes = new_axes((8, 1.4 + 0.5 * len(names)))
        for place, (values, taken) in enumerate(zip(by_seed[::-1], images[::-1], strict=True)):
            shares = 100 * np.array(values)
            mean = float(shares.mean())
            axes.plot(shares, [place] * len(shares), "o", color=BLUE, alpha=0.55, ms=6)
            axes.plot(mean, place, "|", color=INK, ms=18, mew=2.4)
            axes.annotate(
                f"{mean:.2f} · {taken:,.0f} images",
                xy=(1.0, place),
                xycoords=("axes fraction", "data"),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                color=MUTED,
            )
        axes.set_yticks(range(len(names)), names[::-1])
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.margins(x=0.08)
        axes.set_xlabel("average test accuracy (%): a dot for each seed, and their mean")
        axes.grid(visible=False, axis="y")
        return figure

    means = [100 * float(np.mean(values)) for values in by_seed]
    best = int(np.argmax(means))
    least = int(np.argmin(images))
    return Drawing(
        "contenders",
        "Accuracy, and what it takes",
        f"Average accuracy of {len(names)} contenders. The most has {names[best]} with "
        f"{means[best]:.2f}% for {images[best]:,.0f} images; the fewest images takes "
        f"{names[least]}, with {means[least]:.2f}% for {images[least]:,.0f}.",
        "Images: training samples that a zoo's members are fitted on, repeats included, times "
        "epochs.",
        draw,
    )


def tasks_drawing(names: Sequence[str], final: Floats, tasks: Sequence[str]) -> Drawing:
    """Accuracy in the end of each contender (row) on each task, mean over seeds."""

    def draw() -> Figure:
        size = (min(3 + 0.55 * len(tasks), 12), min(1.8 + 0.45 * len(names), 12))
        figure, axes = new_axes(size)
        beyond = 100 * (final - final.mean(axis=0))
        most = float(np.abs(beyond).max()) or 1.0
        image = axes.imshow(beyond, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
        write_numbers(axes, 100 * final, form="{:.1f}", dark=np.abs(beyond) > 0.6 * most)
        figure.colorbar(image, label="points beyond the mean")
        axes.set_xticks(range(len(tasks)), short_names(tasks), **SLANTED)
        axes.set_yticks(range(len(names)), names)
        return figure

    spread = 100 * (final.max(axis=0) - final.min(axis=0))
    widest = int(spread.argmax())
    best = names[int(final[:, widest].argmax())]
    return Drawing(
        "by-task",
        "Accuracy of each task in the end",
        f"A heat map of {len(names)} contenders by {len(tasks)} tasks. They differ most on "
        f"{tasks[widest]}, by {spread[widest]:.1f} points; best there is {best}.",
        "Numbers are test accuracy in %, means over seeds. Read down a column: blue is better at "
        "the task than the contenders' mean, red worse.",
        draw,
    )


def competition_drawing(
    mean: Competition, by_seed: Sequence[Competition], tasks: Sequence[str]
) -> Drawing:
    """What each task gains from each other."""

    def draw() -> Figure:
        size = min(3.5 + 0.55 * len(tasks), 14)
        figure, axes = new_axes((size + 1, size))
        count = len(tasks)
        # The means stand apart, in a row and a column of their own.
        shown = np.full((count + 1, count + 1), np.nan)
        shown[:count, :count] = 100 * mean.gain
        shown[:count, count], shown[count, :count] = 100 * mean.helped, 100 * mean.helps
        most = float(np.nanmax(np.abs(shown))) or 1.0
        image = axes.imshow(shown, cmap="RdBu", vmin=-most, vmax=most)
        write_numbers(axes, shown, form="{:+z.1f}", dark=np.abs(shown) > 0.6 * most)
        names = [*short_names(tasks), "mean"]
        axes.set_xticks(range(count + 1), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count + 1), names)
        axes.set_xlabel("fitted together with")
        axes.set_ylabel("accuracy gained on")
        axes.axhline(count - 0.5, color=INK, linewidth=1)
        axes.axvline(count - 0.5, color=INK, linewidth=1)
        figure.colorbar(image, ax=axes, label="percentage points", shrink=0.7)
        return figure

    gain = mean.gain
    best, worst = (divmod(int(arg(gain)), len(tasks)) for arg in (np.nanargmax, np.nanargmin))
    over = f", mean of {len(by_seed)} seeds" if len(by_seed) > 1 else ""
    return Drawing(
        "competition",
        "What tasks do for each other",
        f"A heat map of the accuracy that {len(tasks)} tasks gain from each other{over}. There is "
        f"a gain in {100 * mean.positive_share:.0f}% of the cases, on average "
        f"{100 * float(np.nanmean(gain)):+z.2f} points; the two directions of a pair differ by "
        f"{100 * mean.asymmetry:.2f}. Most gains {tasks[best[0]]} from {tasks[best[1]]} "
        f"({100 * gain[best]:+z.2f}), least {tasks[worst[0]]} from {tasks[worst[1]]} "
        f"({100 * gain[worst]:+z.2f}).",
        "A cell is the test accuracy on the row's task of a member fitted on it and on the "
        "column's, minus that of a member fitted on it alone, in percentage points. The last "
        "column is what a task gains on average, the last row what it gives.",
        draw,
    )


def together_drawing(together: Floats, tasks: Sequence[str]) -> Drawing:
    """Accuracy on the first tasks against the number of tasks fitted together."""

    def draw() -> Figure:
        figure, axes = new_axes((8, 4.5))
        count = min(len(tasks), 5)
        looks = in_order(count)
        several = np.arange(1, len(tasks) + 1)
        for task, (colour, _) in enumerate(looks):
            shares = 100 * together[task:, task]
            axes.plot(several[task:], shares, "o-", color=colour, ms=4.5, lw=1.6)
        axes.set_xticks(whole_ticks(len(tasks)))
        axes.set_xlabel("tasks fitted together, in the order of the stream")
        axes.set_ylabel("test accuracy (%)")
        ends = [100 * together[-1, task] for task in range(count)]
        label_ends(axes, ends, short_names(tasks)[:count], looks)
        return figure

    first = 100 * together[:, 0]
    return Drawing(
        "together",
        "More tasks in one network",
        f"Accuracy on the first tasks of members fitted on the first 1 to {len(tasks)}. On "
        f"{tasks[0]} it goes from {first[0]:.1f}% alone to {first[-1]:.1f}% with all.",
        "A line that falls: fitted on more tasks for as many epochs, the network is less accurate "
        "on this one.",
        draw,
    )


_TASKS = "zoo.tasks_per_member"


def search_drawings(
    rows: Sequence[Row],
    found: Findings,
    importance: Mapping[str, float | None],
    *,
    metric: str,
) -> list[Drawing]:
    """What a search has shown: more members, what they cost, and which keys matter.

    Args:
        rows: of its trials; the complete ones are shown.
        found: what stands out among them.
        importance: of the searched keys, in order.
        metric: what the trials are judged by.
    """
    done = [row for row in rows if row.status == "complete"]
    words = metric.replace("_", " ")
    return [
        _members_drawing(done, found.best, words, best_of=max if is_maximised(metric) else min),
        _cost_drawing(done, found, words),
        _importance_drawing(importance, f"{words} over {len(judged(rows))} trials"),
    ]


def _members_drawing(
    rows: Sequence[Row], best: Row, words: str, *, best_of: Callable[..., Any]
) -> Drawing:
    """The metric against the number of members, a line for each number of tasks per member."""

    def draw() -> Figure:
        figure, axes = new_axes((8, 4.5))
        lines: dict[Any, list[Row]] = {}
        for row in rows:
            lines.setdefault(row.values.get(_TASKS), []).append(row)
        order = sorted(lines, key=lambda tasks: tasks or 0)
        looks = in_order(len(order))
        ends, labels = [], []
        for tasks, (colour, _) in zip(order, looks, strict=True):
            by_size: dict[int, list[float]] = {}
            for row in lines[tasks]:
                by_size.setdefault(_zoo_size(row), []).append(100 * row.score)
                axes.plot(_zoo_size(row), 100 * row.score, "o", color=colour, ms=5)
            sizes = sorted(by_size)
            axes.plot(
                sizes, [best_of(by_size[size]) for size in sizes], color=colour, linewidth=1.6
            )
            ends.append(best_of(by_size[sizes[-1]]))
            noun = "task" if tasks == 1 else "tasks"
            labels.append("all trials" if tasks is None else f"{tasks} {noun} per member")
        whole_numbers(axes.xaxis)
        axes.set_xlabel("members of the zoo")
        axes.set_ylabel(f"{words} (%)")
        _ring(axes, _zoo_size(best), best)
        label_ends(axes, ends, labels, looks)
        return figure

    fewest, most = (
        best_of((row for row in rows if _zoo_size(row) == size), key=lambda row: row.score)
        for size in (min(map(_zoo_size, rows)), max(map(_zoo_size, rows)))
    )
    text = (
        f"The {words} of {len(rows)} trials against the members of their zoos: the best with "
        f"{_zoo_size(fewest)} members is {percent(fewest.score)}"
    )
    if most is not fewest:
        text += f", with {_zoo_size(most)} {percent(most.score)}"
    return Drawing(
        "zoo-size",
        "More members",
        f"{text}.",
        "A dot is a trial; a line goes through the best of each size; the ring is the best.",
        draw,
    )


def _cost_drawing(rows: Sequence[Row], found: Findings, words: str) -> Drawing:
    """The metric against what a trial costs alone, and the front that no other trial beats."""

    def draw() -> Figure:
        figure, axes = new_axes((8, 4.5))
        axes.plot([r.images for r in rows], [100 * r.score for r in rows], "o", color=MUTED, ms=4.5)
        front = found.front
        axes.step(
            [row.images for row in front],
            [100 * row.score for row in front],
            where="post",
            color=INK,
            linewidth=1.6,
        )
        for row in {row.name: row for row in (*front[:1], found.near, found.best)}.values():
            values = ", ".join(
                f"{key.rpartition('.')[2]} {value_text(v)}" for key, v in row.values.items()
            )
            axes.annotate(
                f"{row.name}: {values}",
                xy=(row.images, 100 * row.score),
                xytext=(6, -12),
                textcoords="offset points",
                fontsize=8,
                color=INK,
            )
        if len({row.images for row in rows}) > 1:
            axes.set_xscale("log")
            axes.tick_params(axis="x", which="both", labelrotation=30)
        else:
            whole_numbers(axes.xaxis)
        for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            which(FuncFormatter(lambda images, _: f"{images:,.0f}"))
        scale = " (log scale)" if axes.get_xscale() == "log" else ""
        axes.set_xlabel(f"cost: images its members are fitted on{scale}")
        axes.set_ylabel(f"{words} (%)")
        _ring(axes, found.best.images, found.best)
        return figure

    least, most = (
        f"{percent(row.score)} for {row.images:,}" for row in (found.front[0], found.front[-1])
    )
    front = f"goes from {least} images to {most}" if least != most else f"is {least} images"
    return Drawing(
        "cost",
        "What it costs",
        f"The {words} of {len(rows)} trials against the images that their members are fitted "
        f"on. The front {front}.",
        f"The {'line is the front' if len(found.front) > 1 else 'front is one trial'}: what no "
        "trial beats for as much or less. A trial's cost is what it would take alone.",
        draw,
    )


def _importance_drawing(importance: Mapping[str, float | None], words: str) -> Drawing:
    """The share of the metric's variance between the values of each key."""

    def draw() -> Figure:
        figure, axes = new_axes((8, 1.6 + 0.5 * len(importance)))
        order = sorted(importance, key=lambda key: importance[key] or 0.0)
        shares = [100 * (importance[key] or 0.0) for key in order]
        axes.barh(order, shares, color=BLUE, height=0.55)
        for place, key in enumerate(order):
            share = importance[key]
            axes.annotate(
                "cannot be told from chance" if share is None else f"{100 * share:.0f}%",
                xy=(shares[place], place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color=MUTED,
            )
        axes.set_xlim(0, 112)
        axes.set_xlabel(f"share of the variance of {words},\nby one key alone (%)")
        axes.grid(visible=False, axis="y")
        return figure

    told = (
        f"{key} {'no more than chance may' if share is None else f'{100 * share:.0f}%'}"
        for key, share in importance.items()
    )
    return Drawing(
        "importance",
        "What matters",
        f"How much of the variance of {words} each searched key explains by itself: "
        f"{'; '.join(told)}.",
        "No more than chance may: dealt to the trials at random, the same scores give the key as "
        "large a share once in twenty times or more. With few trials they always do; more may "
        "tell. Numbers of many values are taken in four bins. What two keys do together is not "
        "shown.",
        draw,
    )


def _zoo_size(row: Row) -> int:
    """Members of each of a trial's zoos."""
    return row.members // len(row.scores)


def _ring(axes: Axes, place: float, best: Row) -> None:
    """Mark the best trial."""
    style = {"markerfacecolor": "none", "markeredgecolor": RED, "markeredgewidth": 1.8}
    axes.plot(place, 100 * best.score, "o", ms=12, label="best", **style)  # type: ignore[arg-type]
