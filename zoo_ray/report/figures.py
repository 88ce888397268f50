"""Figures, as PNG bytes."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from zoo_ray.zoo.boosting import Floats

_INK, _MUTED, _GRID = "#1f2430", "#6b7280", "#e5e7eb"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
}
_MOST_LABELS = 10


def accuracy_figure(*, accuracy: Floats, tasks: Sequence[str], title: str) -> bytes:
    """Every task's test accuracy against the episode, from its arrival on, and their mean.

    The figure of the paper (Ramesh & Chaudhari 2022, figure 1): a line that rises to the right is
    backward transfer, one that falls is forgetting.

    Args:
        accuracy: A[e, i], shape (episodes, tasks); NaN where task i had not arrived.
        tasks: their names.
        title: of the figure.
    """
    episodes = np.arange(1, len(accuracy) + 1)
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.88, len(tasks)))
        for task, colour in enumerate(colours):
            style = {"color": colour, "linewidth": 1.6, "markersize": 4.5, "marker": "o"}
            axes.plot(episodes[task:], 100 * accuracy[task:, task], **style)
        mean = 100 * np.array([row[: e + 1].mean() for e, row in enumerate(accuracy)])
        axes.plot(episodes, mean, color=_INK, linewidth=2.4, linestyle=(0, (4, 2)))
        ends = [*(100 * accuracy[-1]), mean[-1]]
        labels = [*(_short(name) for name in tasks), "mean of the tasks seen"]
        inks = [*colours, _INK]
        if len(tasks) > _MOST_LABELS:  # more would not fit; the order of colours is that of tasks
            kept = [0, len(tasks) - 1, len(tasks)]
            ends, labels, inks = ([column[i] for i in kept] for column in (ends, labels, inks))
        axes.set_xlim(0.8, len(accuracy) + 0.2)
        axes.set_xticks(_whole_ticks(len(accuracy)))
        axes.set_xlabel("episode")
        axes.set_ylabel("test accuracy (%)")
        axes.set_title(_plain(title), loc="left", fontweight="bold")
        _label_ends(axes, ends, labels, inks)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=150)
        plt.close(figure)
    return png.getvalue()


def _label_ends(
    axes: Axes, values: Sequence[float], labels: Sequence[str], colours: Sequence[object]
) -> None:
    """Label lines at their right ends, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    order = sorted(range(len(values)), key=lambda i: (values[i], -i))
    places = _spread([values[i] for i in order], gap=(high - low) / 18)
    for i, place in zip(order, places, strict=True):
        axes.annotate(
            f"{labels[i]}  {values[i]:.1f}",
            xy=(1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=colours[i],
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


def _short(name: str) -> str:
    return _plain(name if len(name) <= 24 else name[:23] + "…")


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # a dollar sign would start mathematics


def _whole_ticks(episodes: int) -> list[int]:
    step = max(1, -(-episodes // 12))
    return list(range(1, episodes + 1, step))
