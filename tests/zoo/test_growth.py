import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import RECIPE, deliver_toy, sequential, toy_growth, toy_predictions, toy_rules, toy_stream

from zoo_ray.keys import hash_bits, unit_interval
from zoo_ray.members.spec import MemberSpec, TaskShare
from zoo_ray.zoo.metrics import metrics

RULES = [
    toy_rules(1),
    toy_rules(6),
    toy_rules(6, tasks_per_member=3, members_per_episode=2, seed=5),
    toy_rules(5, mode="uniform", members_per_episode=3),
    toy_rules(4, mode="isolated", tasks_per_member=3),
    toy_rules(3, tasks_per_member=7),
]


def same_zoo(one, other):
    np.testing.assert_array_equal(one.accuracy(), other.accuracy())
    for left, right in zip(one.episodes, other.episodes, strict=True):
        assert left.members == right.members
        assert left.members_of_task == right.members_of_task
        for field in ("weights", "losses", "validation_accuracy", "test_accuracy"):
            np.testing.assert_array_equal(getattr(left, field), getattr(right, field))
    return one.digest() == other.digest()


def the_algorithm_to_the_letter(rules):
    """design.md's algorithm, one member after the other: A, and each member's tasks and digest."""
    stream = toy_stream(rules.tasks)
    on_task = [[] for _ in stream]  # the predictions of the members fitted on each task
    accuracy = np.full((rules.tasks, rules.tasks), np.nan)
    members, all_weights = [], []

    def average(task, part):
        return np.mean([p[part].astype(np.float64) for p in on_task[task]], axis=0)

    for k in range(1, rules.tasks + 1):
        losses = []
        for i in range(k - 1):
            labels = stream[i].train
            likelihoods = average(i, "train")[np.arange(len(labels)), labels]
            losses.append(-np.mean([math.log(max(p, 1e-12)) for p in likelihoods]))
        mean = np.mean(losses) if losses else 0
        weights = [min(max(math.exp((loss - mean) / mean), 1e-4), 1e3) for loss in losses]
        all_weights.append(weights)
        b = 1 if rules.mode == "isolated" else rules.tasks_per_member
        new = []
        for index in range(rules.members_per_episode):
            score = {}
            for i in range(k - 1):
                u = unit_interval("draw", rules.seed, k, index, i)
                weight = 1 if rules.mode == "uniform" else weights[i]
                score[i] = math.log(weight) - math.log(-math.log(u))
            past = sorted(score, key=lambda i: -score[i])[: min(b, k) - 1]
            tasks = (*sorted(past), k - 1)
            spec = MemberSpec(
                tuple(TaskShare(stream[i].digest) for i in tasks),
                RECIPE,
                hash_bits("fit", rules.seed, k, index),
            )
            new.append((tasks, toy_predictions(spec, [stream[i] for i in tasks])))
            members.append((k, index, tasks, spec.digest))
        for tasks, predictions in new:  # members of one episode do not see each other
            for i, prediction in zip(tasks, predictions, strict=True):
                on_task[i].append(prediction)
        for i in range(k):
            accuracy[k - 1, i] = np.mean(average(i, "test").argmax(axis=1) == stream[i].test)
    return accuracy, members, all_weights


@pytest.mark.parametrize("rules", RULES)
def test_growth_is_the_algorithm_to_the_letter(rules):
    growth = sequential(rules)
    accuracy, members, weights = the_algorithm_to_the_letter(rules)
    np.testing.assert_array_equal(growth.accuracy(), accuracy)
    grown = [(m.slot.episode, m.slot.index, m.tasks, m.digest) for m in growth.members()]
    assert grown == members
    for episode, expected in zip(growth.episodes, weights, strict=True):
        assert episode.weights.tolist() == pytest.approx(expected, rel=1e-12)


def test_boosting_matters_in_the_streams_of_these_tests():
    boosted, uniform = (sequential(toy_rules(12, mode=mode)) for mode in ("continual", "uniform"))
    assert [m.tasks for m in boosted.members()] != [m.tasks for m in uniform.members()]


@given(data=st.data())
@settings(max_examples=60)
def test_any_order_of_delivery_gives_the_sequential_zoo(data):
    rules = toy_rules(
        data.draw(st.integers(1, 6), label="tasks"),
        mode=data.draw(st.sampled_from(["continual", "uniform", "isolated"]), label="mode"),
        tasks_per_member=data.draw(st.integers(1, 4), label="b"),
        members_per_episode=data.draw(st.integers(1, 3), label="m"),
        seed=data.draw(st.integers(0, 9), label="seed"),
    )
    growth = toy_growth(rules)
    while not growth.finished:
        wanted = data.draw(st.sampled_from(growth.wanted()), label="delivered")
        deliver_toy(growth, wanted)
    assert same_zoo(growth, sequential(rules))
    assert growth.wanted() == []


@pytest.mark.parametrize("rules", RULES)
def test_a_wanted_member_stays_wanted_until_it_comes(rules):
    """A draw that a loss could still change would show as a wanted member of no zoo."""
    final = {member.digest for member in sequential(rules).members()}
    growth = toy_growth(rules)
    while not growth.finished:
        wanted = growth.wanted()
        assert {w.spec.digest for w in wanted} <= final
        deliver_toy(growth, wanted[-1])
        assert set(wanted[:-1]) <= set(growth.wanted())


def episodes_wanted(growth):
    return [w.slot.episode for w in growth.wanted()]


def test_the_first_b_episodes_are_wanted_at_once_most_urgent_first():
    growth = toy_growth(toy_rules(6, tasks_per_member=3, members_per_episode=2))
    assert episodes_wanted(growth) == [1, 1, 2, 2, 3, 3]
    for w in growth.wanted():
        assert w.tasks == tuple(range(w.slot.episode))


@pytest.mark.parametrize("mode", ["isolated", "uniform"])
def test_all_episodes_are_wanted_at_once_where_losses_do_not_matter(mode):
    growth = toy_growth(toy_rules(6, mode=mode, members_per_episode=2))
    assert episodes_wanted(growth) == sorted([*range(1, 7)] * 2)


def test_an_unsettled_episode_waits_for_every_member_before_it():
    growth = toy_growth(toy_rules(5, tasks_per_member=2, members_per_episode=2))
    first, *others = growth.wanted()
    assert episodes_wanted(growth) == [1, 1, 2, 2]
    for wanted in reversed(others):
        deliver_toy(growth, wanted)
    assert (episodes_wanted(growth), len(growth.episodes)) == ([1], 0)
    deliver_toy(growth, first)
    assert (episodes_wanted(growth), len(growth.episodes)) == ([3, 3], 2)


@pytest.mark.parametrize("rules", RULES)
def test_every_episode_gets_m_members_and_every_member_its_own_seed(rules):
    growth = sequential(rules)
    assert [len(e.members) for e in growth.episodes] == [rules.members_per_episode] * rules.tasks
    assert len({m.digest for m in growth.members()}) == rules.members


def test_members_left_counts_down_to_none():
    growth = toy_growth(toy_rules(4, members_per_episode=2))
    for left in range(8, 0, -1):
        assert growth.members_left == left
        deliver_toy(growth, growth.wanted()[-1])
    assert growth.members_left == 0
    assert growth.drawn_episodes == 4


def test_unknown_members_change_nothing():
    growth = toy_growth(toy_rules(3))
    before = growth.wanted()
    growth.deliver("0" * 64, [], predictions_sha256="0")
    assert growth.wanted() == before
    assert growth.episodes == []


def test_a_member_delivered_again_changes_nothing():
    rules = toy_rules(4, members_per_episode=2)
    growth = toy_growth(rules)
    while not growth.finished:
        wanted = growth.wanted()[-1]
        tasks = [growth.tasks[position] for position in wanted.tasks]
        predictions = toy_predictions(wanted.spec, tasks)
        deliver_toy(growth, wanted)
        growth.deliver(wanted.spec.digest, predictions, predictions_sha256="another")
        # Not even a look is taken at what is not wanted.
        growth.deliver(wanted.spec.digest, [], predictions_sha256="another")
    assert same_zoo(growth, sequential(rules))


def test_predictions_that_do_not_fit_are_refused_and_the_member_stays_wanted():
    growth = toy_growth(toy_rules(3))
    second = growth.wanted()[1]
    predictions = toy_predictions(second.spec, [growth.tasks[p] for p in second.tasks])
    for wrong in (predictions[:1], predictions[::-1], [*predictions, predictions[0]]):
        with pytest.raises(ValueError, match=r"predicted|shape"):
            growth.deliver(second.spec.digest, wrong, predictions_sha256="0")
    assert second in growth.wanted()
    while not growth.finished:
        deliver_toy(growth, growth.wanted()[-1])
    assert same_zoo(growth, sequential(toy_rules(3)))


def test_the_digest_names_specs_and_predictions_in_order():
    growth, other = toy_growth(toy_rules(1)), toy_growth(toy_rules(1))
    empty = growth.digest()
    wanted = growth.wanted()[0]
    predictions = toy_predictions(wanted.spec, growth.tasks)
    growth.deliver(wanted.spec.digest, predictions, predictions_sha256="a")
    other.deliver(wanted.spec.digest, predictions, predictions_sha256="b")
    assert len({empty, growth.digest(), other.digest()}) == 3


def digests(rules):
    return {m.slot: m.digest for m in sequential(rules).members()}


def test_a_longer_stream_is_the_shorter_one_and_more():
    short, long = digests(toy_rules(4)), digests(toy_rules(7))
    assert short.items() <= long.items()
    assert len(long) == 7


def test_zoos_with_other_m_share_the_members_of_the_uniform_draw():
    def zoo(m):
        return digests(toy_rules(5, mode="uniform", members_per_episode=m))

    assert zoo(1).items() <= zoo(3).items()


def test_zoos_with_other_b_share_members_where_draws_agree():
    two, three = (digests(toy_rules(5, tasks_per_member=b)) for b in (2, 3))
    shared = [slot.episode for slot in two if two[slot] == three[slot]]
    assert shared == [1, 2]


def test_modes_share_members_where_draws_agree():
    isolated = digests(toy_rules(5, mode="isolated"))
    assert isolated == digests(toy_rules(5, tasks_per_member=1))
    assert digests(toy_rules(5, mode="uniform", tasks_per_member=5)) == digests(
        toy_rules(5, tasks_per_member=5)
    )


def test_seeds_share_nothing():
    assert not set(digests(toy_rules(4)).values()) & set(digests(toy_rules(4, seed=1)).values())


def test_accuracy_is_nan_before_arrival_and_partial_while_it_grows():
    growth = toy_growth(toy_rules(3))
    assert growth.accuracy().shape == (0, 3)
    for _ in range(2):
        deliver_toy(growth, growth.wanted()[0])
    assert np.isnan(growth.accuracy()).tolist() == [[False, True, True], [False, False, True]]
    assert metrics(sequential(toy_rules(3)).accuracy()).forgetting is not None


def test_validation_accuracy_is_nan_without_a_validation_part():
    last = sequential(toy_rules(4)).episodes[-1]
    assert np.isnan(last.validation_accuracy).tolist() == [True, False, True, False]


# ---- members that come before they are certain


@given(data=st.data())
@settings(max_examples=60)
def test_members_that_come_early_change_nothing_but_when_they_are_there(data):
    rules = toy_rules(
        data.draw(st.integers(3, 9), label="tasks"),
        tasks_per_member=data.draw(st.integers(2, 3), label="b"),
        members_per_episode=data.draw(st.integers(1, 2), label="m"),
        seed=data.draw(st.integers(0, 9), label="seed"),
    )
    growth = toy_growth(rules)
    while not growth.finished:
        coming = growth.wanted() + [w for w, _ in growth.prospects(count=3)]
        wanted = data.draw(st.sampled_from(coming), label="delivered")
        assert growth.may_want(wanted.spec.digest)
        deliver_toy(growth, wanted)
        assert not growth.may_want(wanted.spec.digest)
    assert same_zoo(growth, sequential(rules))
    assert len(growth.certain) == rules.members
    assert growth.prospects(count=3) == []


def test_an_early_member_is_no_prospect_any_more_and_sharpens_the_others():
    growth = toy_growth(toy_rules(9))
    deliver_toy(growth, growth.wanted()[0])
    deliver_toy(growth, growth.wanted()[0])
    before = growth.prospects(count=3)
    likeliest = {w.slot.episode: (w, chance) for w, chance in reversed(before)}
    early, _ = likeliest[4]
    deliver_toy(growth, early)
    after = growth.prospects(count=3)
    assert early not in [w for w, _ in after]
    assert max(w.slot.episode for w, _ in after) == 1 + max(w.slot.episode for w, _ in before)
    assert not growth.needs(early.spec.digest)


def test_an_early_member_that_was_not_drawn_is_let_go():
    growth = toy_growth(toy_rules(9, seed=3))
    final = {m.digest for m in sequential(growth.rules).members()}
    useless = []
    while not growth.finished:
        for wanted, _ in growth.prospects(count=9):
            if wanted.spec.digest not in final:
                useless.append(wanted.spec.digest)
                deliver_toy(growth, wanted)
        deliver_toy(growth, growth.wanted()[0])
    assert useless
    assert not any(map(growth.needs, useless))
    assert same_zoo(growth, sequential(growth.rules))
    assert growth._here == {}
