"""Weights by a rule of the user's own."""

import numpy as np
import pytest
from toys import RULE, deliver_toy, sequential, toy_growth, toy_rules

from zoo_ray.errors import UserError
from zoo_ray.zoo.boosting import boosting_weights
from zoo_ray.zoo.weights import task_weights, with_source


def ruled(write_module, source=RULE, function="easiest", **keys):
    return toy_rules(5, weights=f"{write_module(source)}.{function}", **keys)


def test_without_a_rule_of_ones_own_they_are_those_of_boosting():
    losses = np.array([0.5, 1.0, 3.0])
    weights = task_weights(toy_rules(3, sharpness=2.0), losses=losses, members=np.ones(3))
    assert weights.tolist() == boosting_weights(losses, sharpness=2.0).tolist()


@pytest.mark.parametrize("mode", ["continual", "multitask"])
def test_episodes_are_drawn_by_the_rule(write_module, mode):
    rules = with_source(ruled(write_module, mode=mode, rounds=4 if mode == "multitask" else 0))
    growth = sequential(rules)
    for before, episode in zip(growth.episodes, growth.episodes[1:], strict=False):
        members = np.array(before.members_of_task)
        assert episode.weights.tolist() == (np.exp(-5 * before.losses) / (1 + members)).tolist()


def test_what_a_rule_changes_does_not_reach_the_zoo(write_module):
    spoiling = (
        "def spoil(losses, members):\n    members += 1\n    losses[:] = 1\n    return losses\n"
    )
    rules = ruled(write_module, spoiling, "spoil")
    losses, members = np.array([0.5, 1.0]), np.ones(2)
    assert task_weights(rules, losses=losses, members=members).tolist() == [1.0, 1.0]
    assert (losses.tolist(), members.tolist()) == ([0.5, 1.0], [1.0, 1.0])


def test_what_a_rule_gives_may_change_later(write_module):
    """One that fills the same array each time."""
    filling = (
        "import numpy as np\nroom = np.ones(9)\n"
        "def fill(losses, members):\n    room[: len(losses)] = losses\n"
        "    return room[: len(losses)]\n"
    )
    growth = sequential(ruled(write_module, filling, "fill"))
    for before, episode in zip(growth.episodes, growth.episodes[1:], strict=False):
        assert episode.weights.tolist() == before.losses.tolist()


def test_a_zoo_whose_rule_fails_says_so_and_grows_no_further():
    growth = toy_growth(toy_rules(5, weights="toys.late"))
    while not growth.problem:
        deliver_toy(growth, growth.wanted()[0])
    assert "AssertionError: too late" in growth.problem
    assert len(growth.episodes) == 3
    assert not growth.finished
    assert growth.prospects(count=3) == []


def test_after_the_last_episode_the_rule_is_not_asked():
    assert sequential(toy_rules(3, weights="toys.late", tasks_per_member=3)).finished


def test_what_is_likely_is_told_by_the_rule(write_module):
    """Once all is known but the newest task's loss, the likeliest draw is the rule's."""
    strict = "def strict(losses, members):\n    return 1e-8 ** (losses * 0 + range(len(losses)))\n"
    growth = toy_growth(ruled(write_module, strict, "strict"))
    for _ in range(2):
        deliver_toy(growth, growth.wanted()[0])
    likeliest, _ = growth.prospects(count=1)[0]
    assert likeliest.tasks == (0, likeliest.slot.episode - 1)


def test_a_rule_that_does_not_take_guesses_is_not_asked_early(write_module):
    picky = (
        "def picky(losses, members):\n"
        "    assert (members == members.round()).all() and not hasattr(picky, 'no')\n"
        "    return losses\n"
    )
    name = write_module(picky)
    growth = toy_growth(toy_rules(5, weights=f"{name}.picky"))
    for _ in range(2):
        deliver_toy(growth, growth.wanted()[0])
    __import__(name).picky.no = True
    assert growth.prospects(count=1) == []
    del __import__(name).picky.no
    assert growth.prospects(count=1)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def rule(losses): return losses", "unexpected keyword argument 'members'"),
        (
            "def rule(l, m): return l",
            r"as rule\(losses=.*, members=.*keyword argument 'losses'",
        ),
        ("def rule(losses, members): return losses[:1]", r"of shape \(1,\) for 5 tasks"),
        ("def rule(losses, members): return 1.0", r"gives 1.0 of shape \(\) for"),
        ("def rule(losses, members): return losses - losses", "not a positive finite number"),
        ("def rule(losses, members): return losses * float('nan')", "not a positive finite"),
        ("def rule(losses, members): return None", "gives nan of shape|TypeError"),
        ("def rule(losses, members): return ['a'] * len(losses)", "ValueError: could not convert"),
        ("def rule(losses, members): raise SystemExit(3)", "SystemExit: 3"),
        ("rule = 3", "'int' object is not callable"),
        ("from json import dumps as rule", "rule is defined elsewhere; give json.dumps"),
        (
            "import random\ndef rule(losses, members): return losses + random.random()",
            "other weights for the same losses",
        ),
        ("", "has no rule"),
        ("def rule(losses, members): return losses / losses.mean()", "nan.*losses .0. 0. 0."),
    ],
)
def test_what_is_no_rule_is_refused_in_one_line(write_module, source, said):
    with pytest.raises(UserError, match=said) as caught:
        with_source(ruled(write_module, source, "rule"))
    assert str(caught.value).startswith("zoo.weights = user_")
    assert "\n" not in str(caught.value)


def test_a_rule_whose_file_is_another_is_refused(write_module):
    rules = with_source(ruled(write_module))
    other = write_module(RULE + "\n# changed\n")
    rules = toy_rules(5, weights=f"{other}.easiest", weights_source=rules.weights_source)
    with pytest.raises(UserError, match="is not the one that the run was begun with"):
        task_weights(rules, losses=np.ones(1), members=np.ones(1))
