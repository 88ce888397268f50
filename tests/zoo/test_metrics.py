import numpy as np
import pytest

from zoo_ray.zoo.metrics import metrics

NAN = float("nan")


def test_metrics_by_hand():
    result = metrics(np.array([[0.9, NAN, NAN], [0.95, 0.6, NAN], [0.8, 0.7, 0.5]]))
    assert result.average_accuracy == pytest.approx((0.8 + 0.7 + 0.5) / 3)
    assert result.learning_accuracy == pytest.approx((0.9 + 0.6 + 0.5) / 3)
    assert result.backward_transfer == pytest.approx(((0.8 - 0.9) + (0.7 - 0.6)) / 2)
    assert result.forgetting == pytest.approx(((0.95 - 0.8) + (0.6 - 0.7)) / 2)


def test_forgetting_is_negative_when_tasks_are_at_their_best_in_the_end():
    result = metrics(np.array([[0.5, NAN], [0.75, 0.5]]))
    assert result.forgetting == -0.25
    assert result.backward_transfer == 0.25


def test_the_best_before_the_end_counts_and_the_end_does_not():
    result = metrics(np.array([[0.5, NAN, NAN], [0.25, 1.0, NAN], [1.0, 1.0, 1.0]]))
    assert result.forgetting == (0.5 - 1.0 + 1.0 - 1.0) / 2


def test_one_task_has_neither_transfer_nor_forgetting():
    assert metrics(np.array([[0.75]])) == (0.75, 0.75, None, None)


def test_metrics_are_plain_floats():
    assert all(type(value) is float for value in metrics(np.array([[0.5, NAN], [0.5, 1.0]])))
