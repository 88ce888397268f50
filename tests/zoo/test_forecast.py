import numpy as np
import pytest

from zoo_ray.zoo.forecast import Standing, mean_change, past_changes, with_prior

# Task 0 halves its loss with a second member, then keeps it; task 1 comes with 0.5, task 2 with 2.
RUN = [
    Standing(np.array([1.0]), (1,)),
    Standing(np.array([0.5, 0.5]), (2, 1)),
    Standing(np.array([0.5, 0.125, 2.0]), (2, 3, 1)),
]


def test_what_members_changed_so_far_is_told_for_each_member_more():
    past = past_changes(RUN)
    assert past.losses.tolist() == [0.5, 0.125, 2.0]
    assert past.gains == pytest.approx([np.log(0.5), np.log(0.125 / 0.5) / 2])
    assert past.members == [1, 1]
    assert past.firsts == pytest.approx([0.0, np.log(0.5), np.log(2.0)])


def test_a_prior_is_two_numbers_more():
    assert with_prior([], mean=3.0, deviation=0.5) == (3.0, 0.5)
    mean, deviation = with_prior([9.0] * 10_000, mean=3.0, deviation=0.5)
    assert mean == pytest.approx(9, abs=0.01)
    assert 0 < deviation < 0.1


def test_the_present_losses_are_known():
    forecast = mean_change(RUN)
    assert forecast.losses.tolist() == [0.5, 0.125, 2.0]
    assert forecast.errors.tolist() == [0, 0, 0]
    assert forecast.weight_errors.tolist() == [0, 0, 0]


def test_nothing_is_known_before_the_first_episode():
    forecast = mean_change([])
    assert forecast.losses.shape == (0,)
    assert forecast.after(np.zeros(0), {}).losses.shape == (1,)


def test_a_member_to_come_changes_the_loss_and_makes_it_uncertain():
    forecast = mean_change(RUN)
    later = forecast.after(np.array([0.0, 1.0, 2.0]), {})
    factor = np.exp(forecast.gains[0])
    assert 0 < factor < 1
    first = np.exp(forecast.newest[0])
    assert later.losses == pytest.approx([0.5, 0.125 * factor, 2.0 * factor**2, first])
    assert later.errors[0] == 0
    assert later.errors[2] == pytest.approx(later.errors[1] * 2**0.5)
    assert later.errors[3] == forecast.newest[1] > 0
    assert (later.weight_errors > 0).tolist() == [False, True, True, True]


def test_a_member_that_is_there_changes_the_loss_for_sure():
    later = mean_change(RUN).after(np.zeros(3), {1: 0.25, 3: 0.75})
    assert later.losses == pytest.approx([0.5, 0.25, 2.0, 0.75])
    assert later.errors.tolist() == [0, 0, 0, 0]


def test_what_is_known_goes_with_what_is_guessed():
    """A task that a member to come will change, and that another is known to change."""
    forecast = mean_change(RUN)
    later = forecast.after(np.array([1.0, 0, 0]), {}).after(np.zeros(4), {0: 0.4})
    assert later.losses[0] == pytest.approx(0.4 * np.exp(forecast.gains[0]))
    assert later.errors[0] == forecast.gain_error


def test_losses_of_zero_are_no_trouble():
    forecast = mean_change([Standing(np.zeros(1), (1,)), Standing(np.zeros(2), (2, 1))])
    later = forecast.after(np.ones(2), {})
    assert np.isfinite(later.losses).all()
    assert np.isfinite(later.weight_errors).all()
    assert mean_change([Standing(np.zeros(1), (1,))]).weight_errors.tolist() == [0]
