import math

import numpy as np
import pytest

from zoo_ray.task import TaskLabels
from zoo_ray.zoo.boosting import mean_log_loss
from zoo_ray.zoo.ensemble import Ensemble


def task(classes=2, *, train=(0, 1), validation=(), test=(0, 1)):
    parts = (np.array(labels, dtype=np.int64) for labels in (train, validation, test))
    return TaskLabels("t", tuple("abcdef"[:classes]), "0" * 64, *parts)


def predictions(train, test, *, classes=2, validation=()):
    return {
        "train": np.array(train, dtype=np.float32),
        "validation": np.array(validation, dtype=np.float32).reshape(len(validation), classes),
        "test": np.array(test, dtype=np.float32),
    }


def test_prediction_is_the_mean_of_the_members():
    ensemble = Ensemble([task()])
    ensemble.add(0, predictions([[1, 0], [0.5, 0.5]], [[0.25, 0.75], [1, 0]]))
    ensemble.add(0, predictions([[0.5, 0.5], [0, 1]], [[0.75, 0.25], [0.5, 0.5]]))
    assert ensemble.members(0) == 2
    assert ensemble.prediction(0, "train").tolist() == [[0.75, 0.25], [0.25, 0.75]]
    assert ensemble.prediction(0, "test").tolist() == [[0.5, 0.5], [0.75, 0.25]]
    assert ensemble.loss(0) == pytest.approx(-math.log(0.75), rel=1e-15)


def test_members_may_weigh_differently():
    ensemble = Ensemble([task()])
    ensemble.add(0, predictions([[1, 0], [1, 0]], [[1, 0], [1, 0]]), weight=3.0)
    ensemble.add(0, predictions([[0, 1], [0, 1]], [[0, 1], [0, 1]]))
    assert ensemble.prediction(0, "test").tolist() == [[0.75, 0.25], [0.75, 0.25]]


def test_sums_are_float64_in_the_order_of_adding():
    rng = np.random.default_rng(0)
    members = [rng.dirichlet(np.ones(2), 2).astype(np.float32) for _ in range(7)]
    ensemble = Ensemble([task()])
    for member in members:
        ensemble.add(0, predictions(member, member))
    expected = np.zeros((2, 2))
    for member in members:
        expected = expected + member.astype(np.float64)
    result = ensemble.prediction(0, "test")
    assert result.dtype == np.float64
    assert np.array_equal(result, expected / 7)


def test_adding_does_not_change_what_was_added():
    ensemble = Ensemble([task()])
    first = predictions([[1, 0], [1, 0]], [[1, 0], [1, 0]])
    ensemble.add(0, first)
    ensemble.add(0, predictions([[0, 1], [0, 1]], [[0, 1], [0, 1]]))
    assert first["test"].tolist() == [[1, 0], [1, 0]]


def test_loss_follows_the_members():
    ensemble = Ensemble([task()])
    assert ensemble.loss(0) == pytest.approx(math.log(2))
    ensemble.add(0, predictions([[1, 0], [0, 1]], [[1, 0], [0, 1]]))
    assert ensemble.loss(0) == 0.0


def test_task_without_members_predicts_uniformly():
    ensemble = Ensemble([task(3, train=(0, 1, 2), test=(0, 1, 2))])
    assert ensemble.prediction(0, "train").tolist() == [[1 / 3] * 3] * 3
    assert ensemble.members(0) == 0


def test_accuracy_ties_go_to_the_first_class():
    ensemble = Ensemble([task(3, train=(0,), test=(0, 1, 1, 2))])
    ties = [[0.5, 0.5, 0], [0.5, 0.5, 0], [0.2, 0.4, 0.4], [0.2, 0.4, 0.4]]
    ensemble.add(0, predictions([[1, 0, 0]], ties, classes=3))
    assert ensemble.accuracy(0, "test") == 0.5


def test_accuracy_of_a_part_without_samples_is_nan():
    assert math.isnan(Ensemble([task()]).accuracy(0, "validation"))


def test_tasks_with_other_numbers_of_classes_do_not_mix():
    ensemble = Ensemble([task(2), task(4, train=(0, 3), test=(3,)), task(1, train=(0,), test=(0,))])
    ensemble.add(1, predictions([[1, 0, 0, 0], [0, 0, 0, 1]], [[0, 0, 0, 1]], classes=4))
    ensemble.add(2, predictions([[1]], [[1]], classes=1))
    assert [ensemble.members(position) for position in range(3)] == [0, 1, 1]
    assert ensemble.prediction(0, "test").shape == (2, 2)
    assert ensemble.prediction(1, "test").shape == (1, 4)
    assert ensemble.prediction(1, "validation").shape == (0, 4)
    assert (ensemble.accuracy(1, "test"), ensemble.accuracy(2, "test")) == (1.0, 1.0)
    assert ensemble.loss(2) == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        predictions([[1, 0]], [[1, 0], [1, 0]]),
        predictions([[1, 0], [1, 0]], [[1, 0], [1, 0], [1, 0]]),
        predictions([[1, 0, 0], [1, 0, 0]], [[1, 0, 0], [1, 0, 0]], classes=3),
        predictions([[1, 0], [1, 0]], [[1, 0], [1, 0]], validation=[[1, 0]]),
        predictions([1, 0], [[1, 0], [1, 0]]),
    ],
    ids=["too few", "too many", "other classes", "validation from nowhere", "one dimension"],
)
def test_predictions_of_the_wrong_shape_are_refused(wrong):
    with pytest.raises(ValueError, match="predictions of task t have shape"):
        Ensemble([task()]).check(0, wrong)


def test_the_loss_with_members_more_is_what_adding_them_gives():
    rng = np.random.default_rng(0)

    def member():
        return predictions(rng.dirichlet((1, 1), 2), rng.dirichlet((1, 1), 2))

    for there in (0, 1, 3):
        ensemble, grown = Ensemble([task()]), Ensemble([task()])
        for known in [member() for _ in range(there)]:
            ensemble.add(0, known)
            grown.add(0, known)
        more = [member(), member()]
        total, weight = ensemble.likelihoods(0)
        total = total + sum(ensemble.likelihood(0, known) for known in more)
        guess = mean_log_loss(total / (weight + len(more)))
        for known in more:
            grown.add(0, known)
        assert guess == pytest.approx(grown.loss(0), rel=1e-12)
        assert ensemble.members(0) == there
