"""What tells lines of a figure from one another."""

from itertools import pairwise

import numpy as np
import pytest

from zoo_ray.report.drawing import INK, apart
from zoo_ray.report.drawings import accuracy_drawing, bands_drawing


def grown(tasks):
    """Accuracy of tasks that are all learned at once, but for the sixth."""
    accuracy = np.where(np.tri(tasks, dtype=bool), 1.0, np.nan)
    accuracy[5:, 5] = 0.57
    return accuracy


def labels_of(axes):
    """The texts beside a figure, from below."""
    texts = [text for text in axes.texts if " · " in text.get_text()]
    return sorted(texts, key=lambda text: text.xy[1])


@pytest.mark.parametrize("tasks", [6, 13, 20])
def test_every_line_is_labelled_in_the_margin_and_none_over_another(tasks):
    drawing = accuracy_drawing(grown(tasks), [f"task {n}" for n in range(tasks)])
    figure = drawing.draw()
    figure.draw_without_rendering()
    (axes,) = figure.axes
    labels = labels_of(axes)
    assert len(labels) == tasks + 1
    assert labels[0].get_text() == "task 5 · 57.0"
    boxes = [label.get_window_extent() for label in labels]
    assert all(lower.y1 <= upper.y0 for lower, upper in pairwise(boxes))
    assert boxes[0].y0 >= 0
    assert boxes[-1].y1 <= figure.bbox.y1


def test_of_many_lines_the_first_the_last_and_the_extremes_are_labelled():
    accuracy = grown(30)
    accuracy[-1, [0, 29]] = 0.9, 0.8
    (axes,) = accuracy_drawing(accuracy, [f"task {n}" for n in range(30)]).draw().axes
    texts = {label.get_text().split(" · ")[0] for label in labels_of(axes)}
    assert texts == {"task 0", "task 29", "task 5", "task 1", "mean of the tasks seen"}


def test_a_band_over_seeds_stays_within_0_and_100():
    seeds = [np.array([[0.0, np.nan], [0.0, 0.1]]), np.array([[1.0, np.nan], [1.0, 1.0]])]
    (axes,) = bands_drawing({"a": seeds}).draw().axes
    (band,) = axes.collections
    ends = band.get_paths()[0].get_extents()
    assert (ends.y0, ends.y1) == (0, 100)


def test_contenders_look_unlike_each_other():
    for count in (1, 8, 30):
        looks = apart(count)
        assert len({(str(colour), marker) for colour, marker in looks}) == count
    assert INK in {colour for colour, _ in apart(8)}  # of the page, by day and by night
