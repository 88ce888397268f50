"""Drawings of comparisons and of studies of task competition."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from zoo_ray.report.drawings import SLANTED, Drawing, write_numbers
from zoo_ray.report.figures import (
    gain_axes,
    plain,
    plot_contenders,
    plot_gain,
    plot_together,
    short_names,
)
from zoo_ray.zoo.boosting import Floats
from zoo_ray.zoo.competition import Competition


def contenders_drawing(
    names: Sequence[str], by_seed: Sequence[Sequence[float]], images: Sequence[float]
) -> Drawing:
    """Average accuracy of each contender, and the images that its zoos were fitted on."""

    def draw() -> Figure:
        figure, axes = plt.subplots(figsize=(8, 1.4 + 0.5 * len(names)), layout="constrained")
        plot_contenders(axes, names[::-1], by_seed[::-1], images[::-1])
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
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        beyond = 100 * (final - final.mean(axis=0))
        most = float(np.abs(beyond).max()) or 1.0
        image = axes.imshow(beyond, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
        write_numbers(axes, 100 * final, form="{:.1f}", dark=np.abs(beyond) > 0.6 * most)
        figure.colorbar(image, label="points beyond the mean")
        axes.set_xticks(range(len(tasks)), short_names(tasks), **SLANTED)
        axes.set_yticks(range(len(names)), [plain(name) for name in names])
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
        figure, axes = gain_axes(len(tasks))
        plot_gain(axes, mean, tasks)
        return figure

    gain = mean.gain
    best, worst = (divmod(int(arg(gain)), len(tasks)) for arg in (np.nanargmax, np.nanargmin))
    over = f", mean of {len(by_seed)} seeds" if len(by_seed) > 1 else ""
    return Drawing(
        "competition",
        "What tasks do for each other",
        f"A heat map of the accuracy that {len(tasks)} tasks gain from each other{over}. There is "
        f"a gain in {100 * mean.positive_share:.0f}% of the cases, on average "
        f"{100 * float(np.nanmean(gain)):+.2f} points; the two directions of a pair differ by "
        f"{100 * mean.asymmetry:.2f}. Most gains {tasks[best[0]]} from {tasks[best[1]]} "
        f"({100 * gain[best]:+.2f}), least {tasks[worst[0]]} from {tasks[worst[1]]} "
        f"({100 * gain[worst]:+.2f}).",
        "A cell is the test accuracy on the row's task of a member fitted on it and on the "
        "column's, minus that of a member fitted on it alone, in percentage points. The last "
        "column is what a task gains on average, the last row what it gives.",
        draw,
    )


def together_drawing(together: Floats, tasks: Sequence[str]) -> Drawing:
    """Accuracy on the first tasks against the number of tasks fitted together."""

    def draw() -> Figure:
        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        plot_together(axes, together, tasks)
        return figure

    first = 100 * together[:, 0]
    return Drawing(
        "together",
        "More tasks in one network",
        f"Accuracy on the first tasks of members fitted on the first 1 to {len(tasks)}. On "
        f"{tasks[0]} it goes from {first[0]:.1f}% alone to {first[-1]:.1f}% with all.",
        "A line that falls: the network has not enough room for so many tasks.",
        draw,
    )
