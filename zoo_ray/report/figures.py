"""Figures, as PNG bytes."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from zoo_ray.outcomes import Outcome
from zoo_ray.search.results import Findings, Row
from zoo_ray.search.space import value_text
from zoo_ray.zoo.boosting import Floats
from zoo_ray.zoo.competition import Competition

INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
BLUE = "#3b6ea5"
# For scripts that the first font lacks, where one of them is installed.
_FALLBACKS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
    "Noto Emoji",  # Noto Color Emoji is made of pictures, which matplotlib does not draw
)
_INSTALLED = {font.name for font in font_manager.fontManager.ttflist}
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", *(name for name in _FALLBACKS if name in _INSTALLED)],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
_MOST_LABELS = 10
_LONGEST = 24


@contextlib.contextmanager
def drawing_style(others: Mapping[str, object] | None = None) -> Iterator[None]:
    """The style of all figures, and other keys of matplotlib's.

    A character that no font here has is drawn as a box, without a warning for each.
    """
    with mpl.rc_context(_STYLE | dict(others or {})), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .*missing from")
        yield


def accuracy_figure(*, accuracy: Floats, tasks: Sequence[str], title: str) -> bytes:
    """Every task's test accuracy against the episode, or round, from its arrival on, and their
    mean.

    The figure of the paper (Ramesh & Chaudhari 2022, figure 1): a line that rises to the right is
    backward transfer, one that falls is forgetting.

    Args:
        accuracy: A[e, i], shape (episodes, tasks); NaN where task i had not arrived.
        tasks: their names.
        title: of the figure.
    """
    with drawing_style():
        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        plot_accuracy(axes, accuracy, tasks)
        axes.set_title(plain(title), loc="left", fontweight="bold")
        return _png(figure)


def plot_accuracy(
    axes: Axes,
    accuracy: Floats,
    tasks: Sequence[str],
    *,
    isolated: Floats | None = None,
    darkest: float = 0.0,
) -> None:
    """The lines of `accuracy_figure`.

    Args:
        axes: to draw on.
        accuracy, tasks: as there.
        isolated: accuracy of each task's Isolated members, shown as a cross.
        darkest: where the lines' colours begin, 0 to 1: the first is nearly black.
    """
    episodes = np.arange(1, len(accuracy) + 1)
    arrivals = np.isnan(accuracy).sum(axis=0)
    colours = mpl.colormaps["viridis"](np.linspace(darkest, 0.88, len(tasks)))
    for task, colour in enumerate(colours):
        style = {"color": colour, "linewidth": 1.6, "markersize": 4.5, "marker": "o"}
        seen = slice(arrivals[task], None)
        axes.plot(episodes[seen], 100 * accuracy[seen, task], **style)
        if isolated is not None:
            axes.plot(episodes[arrivals[task]], 100 * isolated[task], "x", color=colour, ms=7)
    mean = 100 * np.nanmean(accuracy, axis=1)
    axes.plot(episodes, mean, color=INK, linewidth=2.4, linestyle=(0, (4, 2)))
    ends = [*(100 * accuracy[-1]), mean[-1]]
    labels = [*short_names(tasks), "mean of the tasks seen"]
    inks = [*colours, INK]
    if len(tasks) > _MOST_LABELS:  # more would not fit; the order of colours is that of tasks
        kept = [0, len(tasks) - 1, len(tasks)]
        ends, labels, inks = ([column[i] for i in kept] for column in (ends, labels, inks))
    axes.set_xlim(0.8, len(accuracy) + 0.2)
    axes.set_xticks(whole_ticks(len(accuracy)))
    axes.set_xlabel("episode" if arrivals.any() or len(tasks) == 1 else "round")
    axes.set_ylabel("test accuracy (%)")
    label_ends(axes, ends, labels, inks)


def search_figures(
    rows: Sequence[Row],
    found: Findings,
    importance: Mapping[str, float | None],
    *,
    metric: str,
    title: str,
    keys: Sequence[str],
) -> dict[str, bytes]:
    """The pictures of a search, by name.

    Args:
        rows: of its trials; the complete ones are shown.
        found: what stands out among them.
        importance: of the searched keys.
        metric: what the trials are judged by.
        title: of the figures.
        keys: that were searched.
    """
    done = [row for row in rows if row.status == "complete"]
    with drawing_style():
        return {
            "members": _members_figure(done, found, metric=metric, title=title),
            "cost": _cost_figure(done, found, metric=metric, title=title),
            "importance": _importance_figure(importance, metric=metric, title=title, keys=keys),
        }


_TASKS = "zoo.tasks_per_member"


def _members_figure(rows: Sequence[Row], found: Findings, *, metric: str, title: str) -> bytes:
    """The metric against the number of members, a line per tasks per member."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    lines: dict[Any, list[Row]] = {}
    for row in rows:
        lines.setdefault(row.values.get(_TASKS), []).append(row)
    order = sorted(lines, key=lambda tasks: tasks or 0)
    colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.88, len(order)))
    ends, labels = [], []
    for tasks, colour in zip(order, colours, strict=True):
        by_members: dict[int, list[float]] = {}
        for row in lines[tasks]:
            by_members.setdefault(row.members // len(row.scores), []).append(100 * row.score)
            axes.plot(row.members // len(row.scores), 100 * row.score, "o", color=colour, ms=5)
        members = sorted(by_members)
        best = [max(by_members[number]) for number in members]
        axes.plot(members, best, color=colour, linewidth=1.6)
        ends.append(best[-1])
        noun = "task" if tasks == 1 else "tasks"
        labels.append("all trials" if tasks is None else f"{tasks} {noun} per member")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("members of the zoo")
    _finish(axes, metric=metric, title=f"{title}: more members")
    _ring(axes, found.best.members // len(found.best.scores), found.best)
    label_ends(axes, ends, labels, list(colours))
    return _png(figure)


def _cost_figure(rows: Sequence[Row], found: Findings, *, metric: str, title: str) -> bytes:
    """The metric against what a trial costs alone, and the front that no other trial beats."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
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
        for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            which(FuncFormatter(lambda images, _: f"{images:,.0f}"))
        axes.tick_params(axis="x", which="both", labelrotation=30)
    axes.set_xlabel("cost: images its members are fitted on (log scale)")
    _finish(axes, metric=metric, title=f"{title}: what it costs")
    _ring(axes, found.best.images, found.best)
    return _png(figure)


def _importance_figure(
    importance: Mapping[str, float | None], *, metric: str, title: str, keys: Sequence[str]
) -> bytes:
    """The share of the metric's variance between the values of each key."""
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.5 * len(keys)), layout="constrained")
    order = sorted(keys, key=lambda key: importance[key] or 0.0)
    shares = [100 * (importance[key] or 0.0) for key in order]
    axes.barh(order, shares, color=BLUE, height=0.55)
    for place, key in enumerate(order):
        share = importance[key]
        text = " cannot be told" if share is None else f" {100 * share:.0f}%"
        axes.annotate(text, xy=(shares[place], place), va="center", color=MUTED)
    axes.set_xlim(0, 112)
    axes.set_xlabel(f"share of the variance of {metric.replace('_', ' ')}, by one key alone (%)")
    axes.set_title(plain(f"{title}: what matters"), loc="left", fontweight="bold")
    axes.grid(visible=False, axis="y")
    return _png(figure)


def comparison_figure(outcomes: Sequence[Outcome], *, title: str) -> bytes:
    """Average accuracy of each contender: a dot for each seed, and their mean."""
    grown = [outcome for outcome in outcomes if outcome.problem is None][::-1]
    with drawing_style():
        figure, axes = plt.subplots(figsize=(8, 1.4 + 0.5 * len(grown)), layout="constrained")
        plot_contenders(
            axes,
            [outcome.name for outcome in grown],
            [spread.by_seed for o in grown if (spread := o.spread("average_accuracy"))],
            [outcome.images for outcome in grown],
        )
        axes.set_title(plain(title), loc="left", fontweight="bold")
        return _png(figure)


def plot_contenders(
    axes: Axes,
    names: Sequence[str],
    by_seed: Sequence[Sequence[float]],
    images: Sequence[float],
) -> None:
    """A dot for each seed's accuracy, their mean, and what the zoos took; from below."""
    for place, (values, taken) in enumerate(zip(by_seed, images, strict=True)):
        mean = 100 * float(np.mean(values))
        axes.plot(100 * np.array(values), [place] * len(values), "o", color=BLUE, alpha=0.55, ms=6)
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
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.margins(x=0.08)
    axes.set_xlabel("average test accuracy (%): a dot for each seed, and their mean")
    axes.grid(visible=False, axis="y")


def competition_figures(
    found: Competition, together: Floats, *, tasks: Sequence[str], title: str
) -> dict[str, bytes]:
    """The pictures of a study of task competition, by name.

    Args:
        found: what tasks do for each other.
        together: accuracy on each task of members on the first 1, 2 ... tasks, shape (tasks,
            tasks); NaN for tasks that a member does not know.
        tasks: names.
        title: of the figures.
    """
    with drawing_style():
        figure, axes = gain_axes(len(tasks))
        plot_gain(axes, found, tasks)
        words = f"{title}: what tasks do for each other"
        axes.set_title(plain(words), loc="left", fontweight="bold")
        gain = _png(figure)
        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        plot_together(axes, together, tasks)
        words = f"{title}: more tasks in one network"
        axes.set_title(plain(words), loc="left", fontweight="bold")
        return {"competition": gain, "together": _png(figure)}


def gain_axes(tasks: int) -> tuple[Figure, Axes]:
    """A figure for `plot_gain`, of a size that suits the number of tasks."""
    size = min(3.5 + 0.55 * tasks, 14)
    return plt.subplots(figsize=(size + 1, size), layout="constrained")


def plot_gain(axes: Axes, found: Competition, tasks: Sequence[str]) -> None:
    """Accuracy gained on a row's task by fitting a column's with it; means at the edges."""
    count = len(tasks)
    # The means stand apart, in a row and a column of their own.
    shown = np.full((count + 1, count + 1), np.nan)
    shown[:count, :count] = 100 * found.gain
    shown[:count, count], shown[count, :count] = 100 * found.helped, 100 * found.helps
    most = float(np.nanmax(np.abs(shown))) or 1.0
    image = axes.imshow(shown, cmap="RdBu", vmin=-most, vmax=most)
    if count <= 20:
        for row, column in np.argwhere(~np.isnan(shown)):
            value = shown[row, column]
            # On the map's colours, by day and by night.
            ink = "white" if abs(value) > 0.6 * most else "#1b2430"
            axes.text(column, row, f"{value:+.1f}", ha="center", va="center", color=ink, fontsize=7)
    names = [*short_names(tasks), "mean"]
    axes.set_xticks(range(count + 1), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count + 1), names)
    axes.set_xlabel("fitted together with")
    axes.set_ylabel("accuracy gained on")
    axes.axhline(count - 0.5, color=INK, linewidth=1)
    axes.axvline(count - 0.5, color=INK, linewidth=1)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(image, ax=axes, label="percentage points", shrink=0.7)


def plot_together(axes: Axes, together: Floats, tasks: Sequence[str]) -> None:
    """Accuracy on the first tasks against the number of tasks fitted together."""
    count = min(len(tasks), _MOST_LABELS // 2)
    colours = mpl.colormaps["viridis"](np.linspace(0.2, 0.88, count))
    several = np.arange(1, len(tasks) + 1)
    for task, colour in enumerate(colours):
        axes.plot(several[task:], 100 * together[task:, task], "o-", color=colour, ms=4.5, lw=1.6)
    axes.set_xticks(whole_ticks(len(tasks)))
    axes.set_xlabel("tasks fitted together, in the order of the stream")
    axes.set_ylabel("test accuracy (%)")
    ends = [100 * together[-1, task] for task in range(count)]
    label_ends(axes, ends, short_names(tasks)[:count], list(colours))


def _finish(axes: Axes, *, metric: str, title: str) -> None:
    axes.set_ylabel(f"{metric.replace('_', ' ')} (%)")
    axes.set_title(plain(title), loc="left", fontweight="bold")


def _ring(axes: Axes, place: float, best: Row) -> None:
    """Mark the best trial."""
    style = {"markerfacecolor": "none", "markeredgecolor": "#c2410c", "markeredgewidth": 1.8}
    axes.plot(place, 100 * best.score, "o", ms=12, label="best", **style)  # type: ignore[arg-type]


def _png(figure: Figure) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150)
    plt.close(figure)
    return png.getvalue()


def label_ends(
    axes: Axes, values: Sequence[float], labels: Sequence[str], colours: Sequence[object]
) -> None:
    """Label lines at their right ends, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    order = sorted(range(len(values)), key=lambda i: (values[i], -i))
    places = _spread([values[i] for i in order], gap=(high - low) / 18)
    for i, place in zip(order, places, strict=True):
        # The text is not in the line's colour, which may be hard to read by day or by night.
        for text, shift, colour in (
            ("●", 6, colours[i]),
            (f"{labels[i]} · {values[i]:.1f}", 18, INK),
        ):
            axes.annotate(
                text,
                xy=(1.0, place),
                xycoords=("axes fraction", "data"),
                xytext=(shift, 0),
                textcoords="offset points",
                va="center",
                color=colour,
                annotation_clip=False,
            )


def _spread(values: Sequence[float], *, gap: float) -> list[float]:
    """Ascending values moved as little as possible (least squares) to be `gap` apart."""
    # Isotonic regression of value - i * gap: pool neighbours that are out of order.
    pools: list[tuple[float, int]] = []
    for i, value in enumerate(values):
        mean, size = value - i * gap, 1
        while pools and pools[-1][0] > mean:
            before, before_size = pools.pop()
            mean = (mean * size + before * before_size) / (size + before_size)
            size += before_size
        pools.append((mean, size))
    flat = [mean for mean, size in pools for _ in range(size)]
    return [mean + i * gap for i, mean in enumerate(flat)]


def short_names(names: Sequence[str]) -> list[str]:
    """Names as a figure shows them: long ones without what all begin with, or without a middle."""
    words = [name.split(" ") for name in names]
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))
    start = [column[0] for column in alike] if len(names) > 1 else []
    too_long = max(map(len, names), default=0) > _LONGEST
    left_out = len(start) if too_long and len(" ".join(start)) > _LONGEST // 2 else 0
    rests = [" ".join(each[left_out:]) for each in words]
    return [
        plain(_cut(f"… {rest}" if rest and left_out else name))
        for name, rest in zip(names, rests, strict=True)
    ]


def _cut(name: str) -> str:
    half = _LONGEST // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}…{name[1 - half :]}"


def plain(text: str) -> str:
    """Text that matplotlib shows as it is."""
    return text.replace("$", r"\$")  # a dollar sign would start mathematics


def whole_ticks(episodes: int) -> list[int]:
    """Some whole numbers from 1 to that of the episodes."""
    step = max(1, -(-episodes // 12))
    return list(range(1, episodes + 1, step))
