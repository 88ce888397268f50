"""The figures of runs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from zoo_ray.counts import counted
from zoo_ray.report.drawing import (
    BLUE,
    INK,
    MOST_LABELS,
    RED,
    SLANTED,
    Drawing,
    Look,
    apart,
    heat_map,
    in_order,
    label_ends,
    new_axes,
    new_figure,
    short_names,
    whole_numbers,
    whole_ticks,
)
from zoo_ray.zoo.boosting import Floats


def accuracy_drawing(
    accuracy: Floats, tasks: Sequence[str], isolated: Floats | None = None
) -> Drawing:
    """Every task's test accuracy against the episode, or round, from its arrival on, and their
    mean: the figure of the paper (Ramesh & Chaudhari 2022, figure 1).

    Args:
        accuracy: A[e, i], shape (episodes, tasks); NaN where task i had not arrived.
        tasks: their names.
        isolated: accuracy of each task's Isolated members, shown as a cross.
    """

    def draw() -> Figure:
        figure, axes = new_axes((8, 4.5))
        episodes = np.arange(1, len(accuracy) + 1)
        arrivals = np.isnan(accuracy).sum(axis=0)
        looks = in_order(len(tasks))
        for task, (colour, marker) in enumerate(looks):
            style = {"color": colour, "linewidth": 1.6, "markersize": 4.5, "marker": marker}
            seen = slice(arrivals[task], None)
            axes.plot(episodes[seen], 100 * accuracy[seen, task], **style)
            if isolated is not None:
                axes.plot(episodes[arrivals[task]], 100 * isolated[task], "x", color=colour, ms=7)
        mean = 100 * np.nanmean(accuracy, axis=1)
        axes.plot(episodes, mean, color=INK, linewidth=2.4, linestyle=(0, (4, 2)))
        ends = [*(100 * accuracy[-1]), mean[-1]]
        labels = [*short_names(tasks), "mean of the tasks seen"]
        looks.append(Look(INK))
        if len(tasks) > MOST_LABELS:  # the order of colours is that of tasks
            extremes = [int(accuracy[-1].argmin()), int(accuracy[-1].argmax())]
            kept = dict.fromkeys([0, len(tasks) - 1, *extremes, len(tasks)])
            ends, labels = [ends[i] for i in kept], [labels[i] for i in kept]
            looks = [looks[i] for i in kept]
        axes.set_xlim(0.8, len(accuracy) + 0.2)
        axes.set_xticks(whole_ticks(len(accuracy)))
        axes.set_xlabel("episode" if arrivals.any() or len(tasks) == 1 else "round")
        axes.set_ylabel("test accuracy (%)")
        label_ends(axes, ends, labels, looks)
        return figure

    means = 100 * np.nanmean(accuracy, axis=1)
    caption = "A line that rises to the right is backward transfer, one that falls is forgetting."
    if isolated is not None:
        caption += " A cross is Isolated: a member on the task alone."
    return Drawing(
        "accuracy",
        "Accuracy against episode",
        f"Lines of test accuracy for {counted(len(tasks), 'task')} over "
        f"{counted(len(accuracy), 'episode')}; the mean of the tasks seen goes from "
        f"{means[0]:.1f}% to {means[-1]:.1f}%.",
        caption,
        draw,
    )


def transfer_drawing(
    accuracy: Floats, tasks: Sequence[str], isolated: Floats | None
) -> Drawing | None:
    """The paper's figure of forward and backward transfer, task by task; None where no tasks
    arrive, or there is only one."""
    if not np.isnan(accuracy[0, 1:]).any():
        return None
    learned = np.diagonal(accuracy)
    backward = 100 * (accuracy[-1] - learned)
    forward = None if isolated is None else 100 * (learned - isolated)

    def draw() -> Figure:
        size = min(1.6 + 0.42 * len(tasks), 12)
        figure, axes = new_axes((8, size))
        places = np.arange(len(tasks))[::-1]
        if forward is None:
            axes.barh(places, backward, color=BLUE, height=0.6)
        else:
            axes.barh(places + 0.2, forward, color=RED, height=0.36, label="forward")
            axes.barh(places - 0.2, backward, color=BLUE, height=0.36, label="backward")
            axes.legend(frameon=False, loc="best")
        axes.axvline(0, color=INK, lw=1)
        axes.set_yticks(places, short_names(tasks))
        axes.set_xlabel("percentage points of test accuracy")
        axes.grid(visible=False, axis="y")
        return figure

    mean = backward[:-1].mean()
    words = f"Backward transfer of {len(tasks)} tasks, on average {mean:+z.2f} points"
    if forward is not None:
        words += f"; forward transfer, on average {forward.mean():+z.2f} points"
    return Drawing(
        "transfer",
        "Forward and backward transfer" if forward is not None else "Backward transfer",
        f"{words}.",
        "Backward: accuracy in the end minus accuracy on arrival. "
        + (
            "Forward: accuracy on arrival minus that of Isolated."
            if forward is not None
            else "Forward transfer needs an Isolated run of the same recipe and seed in the store."
        ),
        draw,
    )


def matrix_drawing(accuracy: Floats, tasks: Sequence[str]) -> Drawing:
    """The matrix A[e, i] as a heat map."""

    def draw() -> Figure:
        rows, columns = accuracy.shape
        figure, axes = new_axes((min(3 + 0.5 * columns, 12), min(2 + 0.42 * rows, 12)))
        narrow = 100 * np.nanmax(accuracy) - 100 * np.nanmin(accuracy) < 10
        image = heat_map(axes, 100 * accuracy, form="{:.1f}" if narrow else "{:.0f}")
        figure.colorbar(image, label="test accuracy (%)", shrink=0.8)
        axes.set_xticks(range(columns), short_names(tasks), **SLANTED)
        axes.set_yticks(np.array(whole_ticks(rows)) - 1, [*map(str, whole_ticks(rows))])
        axes.set_ylabel("after episode")
        return figure

    last = 100 * accuracy[-1]
    worst = int(np.argmin(last))
    return Drawing(
        "matrix",
        "Accuracy of every task after every episode",
        f"A heat map of {counted(len(accuracy), 'episode')} by {counted(len(tasks), 'task')}. In "
        f"the end the lowest is {tasks[worst]} with {last[worst]:.1f}%.",
        "Read down a column: what the zoo comes to know of a task after it has arrived.",
        draw,
    )


def members_drawing(
    members: Sequence[tuple[int, Sequence[int]]],
    weights: Sequence[Sequence[float]],
    tasks: Sequence[str],
) -> Drawing:
    """Which tasks each member was fitted on, over the boosting weights that its draw saw."""

    def draw() -> Figure:
        shown = np.full((len(tasks), len(members)), np.nan)
        for column, row in enumerate(weights):
            shown[: len(row), column] = row
        figure, axes = new_axes((min(3 + 0.3 * len(members), 12), min(1.8 + 0.32 * len(tasks), 12)))
        if np.isfinite(shown).any():
            ends = (0.5, len(members) + 0.5, len(tasks) - 0.5, -0.5)
            image = axes.imshow(shown, cmap="Blues", aspect="auto", extent=ends)
            figure.colorbar(image, label="weight in the draw", shrink=0.8)
        xs = [number for number, (_, drawn) in enumerate(members, start=1) for _ in drawn]
        ys = [task for _, drawn in members for task in drawn]
        axes.plot(xs, ys, "o", color=RED, ms=max(2.5, 6 - 0.05 * len(members)))
        axes.set_xlim(0.5, len(members) + 0.5)
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        axes.set_yticks(range(len(tasks)), short_names(tasks))
        whole_numbers(axes.xaxis)
        axes.set_xlabel("member, in the order of episodes")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        return figure

    counts = np.bincount([task for _, drawn in members for task in drawn], minlength=len(tasks))
    most, least = int(counts.argmax()), int(counts.argmin())
    return Drawing(
        "members",
        "What each member was fitted on",
        f"{len(members)} members by {len(tasks)} tasks. Most members: {tasks[most]} "
        f"({counts[most]}); fewest: {tasks[least]} ({counts[least]}).",
        "A dot: the member was fitted on the task. The shade is the task's weight when the "
        "member was drawn: with boosting weights, tasks that the zoo explains badly weigh more.",
        draw,
    )


def growth_drawing(counts: Floats, accuracy: Floats, tasks: Sequence[str]) -> Drawing:
    """Accuracy of the first tasks against the number of members that know them."""
    shown = range(min(len(tasks), 6))

    def draw() -> Figure:
        figure, axes = new_axes((8, 4))
        looks = in_order(len(shown))
        for task, (colour, _) in zip(shown, looks, strict=True):
            seen = ~np.isnan(accuracy[:, task])
            axes.plot(counts[seen, task], 100 * accuracy[seen, task], "o-", color=colour, ms=4)
        whole_numbers(axes.xaxis)
        axes.set_xlabel("members that know the task")
        axes.set_ylabel("test accuracy (%)")
        ends = [100 * accuracy[-1, task] for task in shown]
        label_ends(axes, ends, short_names(tasks)[: len(shown)], looks)
        return figure

    return Drawing(
        "growth",
        "Accuracy against number of members",
        f"Accuracy of the first {len(shown)} tasks as members join; the first task has "
        f"{int(counts[-1, 0])} in the end.",
        "Read along a line: what members that join do for a task.",
        draw,
    )


def confusion_drawing(confusions: Mapping[str, tuple[Sequence[str], Floats]]) -> Drawing:
    """Of each task, which classes are taken for which."""

    def draw() -> Figure:
        columns = min(len(confusions), 4)
        rows = -(-len(confusions) // columns)
        figure = new_figure((2.6 * columns, 2.7 * rows))
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(confusions) :]:
            axes.set_axis_off()
        titles = short_names(list(confusions))
        for axes, title, (classes, counts) in zip(
            grid.flat, titles, confusions.values(), strict=False
        ):
            shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            heat_map(axes, shares, form="{:.0f}", ends=(0, 100), least=0.5)
            names = [name[:10] for name in classes]
            many = len(classes) > 10
            slant = SLANTED if max(map(len, names)) > 2 else {}
            axes.set_xticks([] if many else range(len(classes)), [] if many else names, **slant)
            axes.set_yticks([] if many else [*range(len(classes))], labels=[] if many else names)
            axes.tick_params(labelsize=7)
            axes.set_title(title, fontsize=9, loc="left")
        return figure

    worst = max(
        (
            (counts[i, j] / max(counts[i].sum(), 1), classes[i], classes[j], task)
            for task, (classes, counts) in confusions.items()
            for i in range(len(classes))
            for j in range(len(classes))
            if i != j
        ),
        default=None,
    )
    words = f"Confusion matrices of {len(confusions)} tasks."
    if worst is not None:
        words += (
            f" Most often {worst[1]} is taken for {worst[2]}: {100 * worst[0]:.1f}%, in {worst[3]}."
        )
    return Drawing(
        "confusion",
        "What is taken for what",
        words,
        "Rows are what test images show, columns what the zoo says, in % of the row.",
        draw,
    )


def bands_drawing(matrices: Mapping[str, Sequence[Floats]], *, name: str = "comparison") -> Drawing:
    """Mean accuracy of the tasks seen against the episode: mean over seeds, and their spread.

    Args:
        matrices: A[e, i] for each seed, by what they are of; of one episode: a line across.
        name: of the files.
    """
    most = max(len(several[0]) for several in matrices.values())

    def draw() -> Figure:
        figure, axes = new_axes((8, 4.5))
        looks = apart(len(matrices))
        ends = []
        for several, (colour, marker) in zip(matrices.values(), looks, strict=True):
            lines = 100 * np.array([np.nanmean(matrix, axis=1) for matrix in several])
            once = lines.shape[1] == 1 < most
            episodes = np.array([1, most]) if once else np.arange(1, lines.shape[1] + 1)
            lines = np.broadcast_to(lines, (len(lines), len(episodes)))
            mean = lines.mean(axis=0)
            axes.plot(
                *(episodes, mean),
                color=colour,
                lw=1.8,
                ls=(0, (4, 2)) if once else "-",
                marker=marker,
                ms=5,
            )
            if len(lines) > 1:
                spread = lines.std(axis=0, ddof=1)
                band = np.clip([mean - spread, mean + spread], 0, 100)
                axes.fill_between(episodes, *band, color=colour, alpha=0.2)
            ends.append(float(mean[-1]))
        label_ends(axes, ends, short_names(list(matrices)), looks)
        axes.set_xticks(whole_ticks(most))
        axes.set_xlabel("episode")
        axes.set_ylabel("mean accuracy of the tasks seen (%)")
        return figure

    finals = {
        name: 100 * float(np.mean([matrix[-1].mean() for matrix in several]))
        for name, several in matrices.items()
    }
    listed = ", ".join(f"{name} {value:.2f}%" for name, value in finals.items())
    caption = (
        "A line is the mean over seeds, its band one standard deviation to either side, as far as "
        "accuracy goes."
    )
    if any(len(several[0]) == 1 < most for several in matrices.values()):
        caption += " Dashed across: all tasks at once, in one episode."
    return Drawing(
        name,
        "Accuracy against episode, side by side",
        f"In the end: {listed}.",
        caption,
        draw,
    )
