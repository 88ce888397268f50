"""The zoo's modes and keys beyond the default, against design.md written out once more."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import RECIPE, deliver_toy, sequential, toy_growth, toy_predictions, toy_rules, toy_stream

from zoo_ray.keys import hash_bits, unit_interval
from zoo_ray.members.spec import MemberSpec, TaskShare
from zoo_ray.progress import training_samples
from zoo_ray.task import PARTS, TaskLabels
from zoo_ray.zoo.growth import Growth

RULES = {
    "multihead": toy_rules(5, mode="multihead", members_per_episode=2, seed=3),
    "multitask": toy_rules(6, mode="multitask", rounds=5, tasks_per_member=2, seed=1),
    "multitask, warm": toy_rules(
        4, mode="multitask", rounds=3, members_per_episode=2, warm_start=True
    ),
    "multitask, b > T": toy_rules(3, mode="multitask", rounds=2, tasks_per_member=5),
    "replay": toy_rules(6, tasks_per_member=3, members_per_episode=2, replay=0.29),
    "little replay": toy_rules(7, replay=0.1, seed=2),
    "closing rounds": toy_rules(5, closing_rounds=4, members_per_episode=2, seed=4),
    "closing, isolated": toy_rules(3, mode="isolated", closing_rounds=2),
    "closing, replay": toy_rules(4, closing_rounds=2, replay=0.5, tasks_per_member=3),
    "pairs": toy_rules(5, mode="pairs", seed=6),
    "sharpness": toy_rules(8, sharpness=4.0, tasks_per_member=3),
    "count penalty": toy_rules(8, count_penalty=2.0, tasks_per_member=3),
    "counting, uniform": toy_rules(
        8, mode="uniform", count_penalty=1.5, closing_rounds=3, members_per_episode=2
    ),
    "counting, isolated": toy_rules(4, mode="isolated", count_penalty=1.0),
    "counting, b = 1": toy_rules(4, tasks_per_member=1, count_penalty=1.0, closing_rounds=1),
    "counting, multitask": toy_rules(5, mode="multitask", rounds=6, count_penalty=1.0),
}


def the_algorithm_to_the_letter(rules):
    """A, and each member's episode, tasks and spec."""
    stream = toy_stream(rules.tasks)
    tasks, b, m, f = rules.tasks, rules.tasks_per_member, rules.members_per_episode, rules.replay
    everything = list(range(tasks))
    on_task = [[] for _ in stream]  # (prediction, weight) of the members fitted on each task
    rows, members, counts = [], [], [0] * tasks

    def average(i, part):
        labels = stream[i].labels(part)
        if not on_task[i]:
            classes = len(stream[i].classes)
            return np.full((len(labels), classes), 1 / classes)
        total = sum(p[part].astype(np.float64) * w for p, w in on_task[i])
        return total / sum(w for _, w in on_task[i])

    def kept(i):
        """How many of each class of a past task replay holds; None: all."""
        if f == 1:
            return None
        per_class = [int(n) for n in np.bincount(stream[i].train, minlength=len(stream[i].classes))]
        return tuple(min(n, max(math.floor(Fraction(str(f)) * n), 1)) for n in per_class)

    def loss(i):
        labels, limit = stream[i].train, kept(i)
        seen = [0] * len(stream[i].classes)
        logs = []
        for row, label in enumerate(labels):
            seen[label] += 1
            if limit is None or seen[label] <= limit[label]:
                logs.append(math.log(max(average(i, "train")[row, label], 1e-12)))
        return -np.mean(logs)

    def score(i, weight, key, index):
        u = unit_interval("draw", rules.seed, key, index, i)
        weight = weight / max(counts[i], 1) ** rules.count_penalty
        return math.log(weight) - math.log(-math.log(u))

    def fit(chosen, newest, key, index):
        chosen, t = sorted(chosen), len(chosen)
        shares = []
        for i in chosen:
            if i == newest or f == 1:
                shares.append(TaskShare(stream[i].digest))
            else:
                often = 1
                if newest is not None:
                    often = max(math.floor(1 / ((t - 1) * Fraction(str(f)))), 1)
                shares.append(TaskShare(stream[i].digest, kept(i), often))
        spec = MemberSpec(tuple(shares), RECIPE, hash_bits("fit", rules.seed, key, index))
        members.append((tuple(chosen), spec))
        return chosen, newest, toy_predictions(spec, [stream[i] for i in chosen])

    def average_in(new, seen):
        for chosen, newest, predictions in new:
            for i, prediction in zip(chosen, predictions, strict=True):
                on_task[i].append((prediction, 1 / f if i == newest else 1.0))
                counts[i] += 1
        right = [average(i, "test").argmax(axis=1) == stream[i].test for i in seen]
        rows.append([r.mean() for r in right] + [math.nan] * (tasks - len(seen)))

    def weights(of):
        losses = [loss(i) for i in of]
        mean = np.mean(losses) if losses else 0
        if rules.mode == "uniform" or not losses:
            return [1.0] * len(of)
        return [min(max(math.exp(rules.sharpness * (x - mean) / mean), 1e-4), 1e3) for x in losses]

    if rules.mode == "multihead":
        average_in([fit(everything, None, tasks, index) for index in range(m)], everything)
    elif rules.mode == "multitask":
        if rules.warm_start:
            average_in([fit(everything, None, 0, 0)], everything)
        for r in range(1, rules.rounds + 1):
            now = weights(everything)
            new = []
            for index in range(m):
                order = sorted(everything, key=lambda i: -score(i, now[i], r, index))
                new.append(fit(order[: min(b, tasks)], None, r, index))
            average_in(new, everything)
    else:
        for k in range(1, tasks + 1):
            now = weights(range(k - 1))
            new = []
            if rules.mode == "pairs":
                others = [[], *([i] for i in range(k - 1))]
                new = [fit([*o, k - 1], k - 1, k, index) for index, o in enumerate(others)]
            for index in range(0 if new else m):
                order = sorted(range(k - 1), key=lambda i: -score(i, now[i], k, index))
                past = 0 if rules.mode == "isolated" else min(b, k) - 1
                new.append(fit([*order[:past], k - 1], k - 1, k, index))
            average_in(new, range(k))
        for r in range(tasks + 1, tasks + rules.closing_rounds + 1):
            new, planned = [], list(counts)
            for index in range(m):
                noise = [unit_interval("draw", rules.seed, r, index, i) for i in everything]
                order = sorted(everything, key=lambda i: (planned[i], -noise[i]))
                chosen = order[: 1 if rules.mode == "isolated" else min(b, tasks)]
                for i in chosen:
                    planned[i] += 1
                new.append(fit(chosen, None, r, index))
            average_in(new, everything)
    return np.array(rows), members, counts


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_modes_are_the_design_to_the_letter(rules):
    growth = sequential(rules)
    accuracy, members, counts = the_algorithm_to_the_letter(rules)
    assert [m.tasks for m in growth.members()] == [tasks for tasks, _ in members]
    assert [m.digest for m in growth.members()] == [spec.digest for _, spec in members]
    np.testing.assert_array_equal(growth.accuracy(), accuracy)
    assert list(growth.episodes[-1].members_of_task) == counts
    assert len(growth.members()) == rules.members
    assert len(growth.episodes) == rules.episodes == len(accuracy)


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_what_is_asked_for_early_is_not_asked_for_in_vain(rules):
    final = {member.digest for member in sequential(rules).members()}
    growth = toy_growth(rules)
    while not growth.finished:
        wanted = growth.wanted()
        assert {w.spec.digest for w in wanted} <= final
        for prospect, worth in growth.prospects(count=4):
            assert 0 <= worth <= 1
            assert prospect.slot.episode <= rules.tasks
        deliver_toy(growth, wanted[-1])
    assert growth.members_left == 0


@given(data=st.data())
@settings(max_examples=60)
def test_any_order_of_delivery_gives_the_sequential_zoo(data):
    rules = data.draw(st.sampled_from([*RULES.values()]))
    growth = toy_growth(rules)
    while not growth.finished:
        wanted = data.draw(st.sampled_from(growth.wanted()), label="delivered")
        deliver_toy(growth, wanted)
    assert growth.digest() == sequential(rules).digest()
    np.testing.assert_array_equal(growth.accuracy(), sequential(rules).accuracy())


def test_closing_rounds_even_the_counts_out():
    growth = sequential(toy_rules(6, closing_rounds=9, tasks_per_member=2))
    counts = growth.episodes[-1].members_of_task
    assert max(counts) - min(counts) <= 1
    before = growth.episodes[5].members_of_task
    assert max(before) - min(before) > 1


def test_closing_rounds_are_certain_once_the_streams_draws_are():
    rules = toy_rules(4, mode="uniform", closing_rounds=3)
    assert len(toy_growth(rules).wanted()) == rules.members == 7


def test_counting_draws_spread_the_members():
    plain, counting = (
        sequential(toy_rules(12, count_penalty=penalty)).episodes[-1].members_of_task
        for penalty in (0.0, 8.0)
    )
    assert np.std(counting) < np.std(plain)


def test_a_zoo_shares_members_with_its_baselines():
    """Configurations that differ in mode, b, m or closing rounds alone share what they can."""
    all_at_once = sequential(toy_rules(4, mode="multihead"))
    with_all = sequential(toy_rules(4, tasks_per_member=9))
    assert all_at_once.members()[0].digest == with_all.members()[-1].digest
    plain, closing = sequential(toy_rules(4)), sequential(toy_rules(4, closing_rounds=2))
    assert closing.members()[:4] == plain.members()


def test_a_task_without_members_is_guessed():
    growth = sequential(toy_rules(6, mode="multitask", rounds=1, tasks_per_member=2))
    unknown = [i for i, n in enumerate(growth.episodes[0].members_of_task) if n == 0]
    assert len(unknown) == 4
    for i in unknown:
        task = growth.tasks[i]
        assert growth.episodes[0].losses[i] == pytest.approx(math.log(len(task.classes)))
    result = growth.metrics()
    assert result.average_accuracy == growth.accuracy()[-1].mean()
    assert result[1:] == (None, None, None)


@pytest.mark.parametrize("even", [True, False])
def test_samples_are_exact_before_draws_if_replay_keeps_as_many_of_each_task(even):
    uneven = [0] * 19 + [1]  # of which replay keeps 2 and 1
    labels = [[0, 1] * 10, [0, 1] * 10, [0, 1] * 10 if even else uneven]
    tasks = [
        TaskLabels(
            name=str(place),
            classes=("a", "b"),
            digest=f"{place:064x}",
            **dict.fromkeys(PARTS, np.array(each)),
        )
        for place, each in enumerate(labels)
    ]
    growth = Growth(tasks=tasks, rules=toy_rules(3, replay=0.15), recipe=RECIPE)
    assert training_samples(growth).exact == even


def test_samples_count_repeats():
    growth = sequential(toy_rules(5, replay=0.1))
    first, second = growth.members()[:2]
    assert first.samples == len(growth.tasks[0].train)
    held = sum(min(n, 1) for n in np.bincount(growth.tasks[0].train))
    assert second.samples == held * 10 + len(growth.tasks[1].train)
    assert toy_growth(toy_rules(5)).mean_samples(3) == 2 * np.mean([9, 10, 11, 12, 13])
