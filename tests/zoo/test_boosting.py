import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_ray.keys import hash_bits, unit_interval
from zoo_ray.zoo.boosting import boosting_weights, draw_tasks, log_loss


def test_keys_hash_to_the_same_bits_for_ever():
    assert hash_bits("fit", 0, 1, 0) == 6888153955380494789
    assert hash_bits("a") == 1059956520740701815
    assert hash_bits("é", 1) == 17524477010735722197
    assert unit_interval("draw", 0, 2, 0, 0) == 0.062105121826403986


def test_key_parts_do_not_run_together():
    assert len({hash_bits("a", 11), hash_bits("a", 1, 1), hash_bits("a1", 1), hash_bits("a")}) == 4
    assert hash_bits("a", 1) != hash_bits("a", "1")


@given(st.lists(st.integers(-(2**70), 2**70) | st.text(st.characters(codec="utf-8"))))
def test_unit_interval_is_strictly_inside(key):
    assert 0 < unit_interval(*key) < 1


def test_log_loss_is_the_mean_negative_log_likelihood():
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]], dtype=np.float32)
    loss = log_loss(probabilities.astype(np.float64), np.array([0, 1, 0]))
    assert loss == pytest.approx((math.log(2) + math.log(4 / 3) + 0) / 3, rel=1e-15)


def test_log_loss_clips_probabilities_at_1e_12():
    probabilities = np.array([[1.0, 0.0], [1 - 1e-13, 1e-13]])
    assert log_loss(probabilities, np.array([1, 1])) == pytest.approx(12 * math.log(10), rel=1e-15)


def test_weights_by_hand():
    # Mean 2: exp(-1/2), exp(0), exp(1/2).
    weights = boosting_weights([1.0, 2.0, 3.0])
    assert weights.dtype == np.float64
    assert weights.tolist() == pytest.approx([0.6065306597126334, 1.0, 1.6487212707001282])


def test_weights_are_clipped_from_above():
    # 10 tasks, one with all the loss: (10 - 1) / 1 = 9, and e^9 is about 8103.
    assert boosting_weights([0.0] * 9 + [10.0]).tolist() == [math.exp(-1)] * 9 + [1e3]


def test_weights_are_clipped_from_below():
    # Losses are never negative, so nothing else can bring a weight under 1/e.
    assert boosting_weights([-10.0, 12.0])[0] == 1e-4


def test_extreme_losses_give_no_overflow_warning():
    assert boosting_weights([0.0] * 999 + [1e300])[-1] == 1e3


def test_losses_of_zero_weigh_one():
    assert boosting_weights([0.0, 0.0, 0.0]).tolist() == [1.0, 1.0, 1.0]


def test_no_tasks_have_no_weights():
    assert boosting_weights([]).shape == (0,)


@given(st.lists(st.floats(0, 30), min_size=1, max_size=20))
def test_weights_never_fall_below_one_in_e(losses):
    weights = boosting_weights(losses)
    assert (weights >= math.exp(-1) * (1 - 1e-12)).all()
    assert (weights <= 1e3).all()


def probabilities_of_successive_draws(weights, count):
    """Of each set of tasks: the sum over the orders in which it can be drawn."""
    exact = Counter()
    for order in permutations(range(len(weights)), count):
        probability, left = 1.0, sum(weights)
        for task in order:
            probability *= weights[task] / left
            left -= weights[task]
        exact[tuple(sorted(order))] += probability
    return exact


@pytest.mark.parametrize(
    ("weights", "count"), [([0.4, 1.0, 2.5], 1), ([0.4, 0.9, 1.6, 3.0], 2), ([1.0] * 4, 3)]
)
def test_draw_has_the_law_of_successive_draws_without_replacement(weights, count):
    exact = probabilities_of_successive_draws(weights, count)
    assert sum(exact.values()) == pytest.approx(1)
    trials = 6000
    seen = Counter(
        draw_tasks(weights=weights, count=count, seed=seed, episode=9, index=seed % 3)
        for seed in range(trials)
    )
    assert seen.keys() <= exact.keys()
    for tasks, probability in exact.items():
        sigma = math.sqrt(trials * probability * (1 - probability))
        assert abs(seen[tasks] - trials * probability) < 5 * sigma


def test_draw_takes_the_largest_log_weights_plus_gumbel_noise():
    weights = [0.5, 1.0, 2.0, 1.5, 0.7]
    scores = [
        math.log(weight) - math.log(-math.log(unit_interval("draw", 4, 6, 1, position)))
        for position, weight in enumerate(weights)
    ]
    best = sorted(np.argsort(scores)[-2:].tolist())
    assert list(draw_tasks(weights=weights, count=2, seed=4, episode=6, index=1)) == best


def test_ties_go_to_the_lower_position(monkeypatch):
    monkeypatch.setattr("zoo_ray.zoo.boosting.draw_noise", lambda *_: np.zeros(4))
    assert draw_tasks(weights=[1.0, 2.0, 1.0, 1.0], count=2, seed=0, episode=5, index=0) == (0, 1)


def test_draw_of_all_or_more_is_everything():
    for count in (3, 4):
        assert draw_tasks(weights=[1, 2, 3], count=count, seed=0, episode=4, index=0) == (0, 1, 2)
    assert draw_tasks(weights=[], count=1, seed=0, episode=1, index=0) == ()
    assert draw_tasks(weights=[1, 2], count=0, seed=0, episode=3, index=0) == ()


def test_draw_is_a_function_of_its_key():
    def draw(seed, episode, index):
        return draw_tasks(weights=[1.0] * 40, count=10, seed=seed, episode=episode, index=index)

    assert draw(0, 41, 0) == draw(0, 41, 0)
    assert len({draw(0, 41, 0), draw(1, 41, 0), draw(0, 42, 0), draw(0, 41, 1)}) == 4


@given(
    st.lists(st.floats(1e-4, 1e3), min_size=1, max_size=12), st.integers(0, 12), st.integers(0, 99)
)
def test_draw_gives_distinct_positions_in_stream_order(weights, count, seed):
    drawn = draw_tasks(weights=weights, count=count, seed=seed, episode=3, index=0)
    assert len(drawn) == min(count, len(weights))
    assert list(drawn) == sorted(set(drawn) & set(range(len(weights))))


@given(st.lists(st.floats(1e-3, 1e2), min_size=3, max_size=9), st.integers(0, 99))
def test_a_drawn_task_stays_drawn_when_its_weight_grows(weights, seed):
    def draw(of):
        return draw_tasks(weights=of, count=2, seed=seed, episode=3, index=0)

    task = draw(weights)[0]
    assert task in draw([w * (5 if t == task else 1) for t, w in enumerate(weights)])
