import numpy as np
import pytest
from toys import toy_rules

from zoo_ray.zoo.boosting import boosting_weights, draw_tasks
from zoo_ray.zoo.forecast import Standing
from zoo_ray.zoo.schedule import Draw, Slot, draw_episode, prospects, settled_episodes


def settled(complete, *, tasks=6, **rules):
    return list(settled_episodes(toy_rules(tasks, **rules), complete=complete))


def test_the_first_b_episodes_are_settled_at_once():
    assert settled(0, tasks_per_member=3) == [1, 2, 3]
    assert settled(1, tasks_per_member=3) == [2, 3]
    assert settled(2, tasks_per_member=3) == [3]


def test_later_episodes_are_settled_one_by_one():
    assert settled(3, tasks_per_member=3) == [4]
    assert settled(5, tasks_per_member=3) == [6]
    assert settled(6, tasks_per_member=3) == []


@pytest.mark.parametrize(
    "rules",
    [{"mode": "isolated"}, {"mode": "uniform"}, {"tasks_per_member": 1}, {"tasks_per_member": 9}],
)
def test_draws_that_look_at_no_loss_are_all_settled(rules):
    assert settled(0, **rules) == [1, 2, 3, 4, 5, 6]
    assert settled(4, **rules) == [5, 6]


def test_a_draw_is_min_of_b_and_k_tasks_with_the_newest_last():
    rules = toy_rules(6, tasks_per_member=3, members_per_episode=2)
    for episode in range(1, 7):
        draws = draw_episode(rules, episode=episode, weights=np.ones(episode - 1))
        assert [draw.slot for draw in draws] == [Slot(episode, 0), Slot(episode, 1)]
        for draw in draws:
            assert len(draw.tasks) == min(3, episode) == rules.tasks_at(episode)
            assert draw.tasks[-1] == episode - 1
            assert list(draw.tasks) == sorted(set(draw.tasks))


def test_boosting_draws_by_weight_and_uniform_does_not():
    weights = np.array([1e-4, 1e-4, 1e-4, 1e3, 1e-4])
    for mode, used in (("continual", weights), ("uniform", np.ones(5))):
        rules = toy_rules(6, mode=mode, members_per_episode=20)
        for index, draw in enumerate(draw_episode(rules, episode=6, weights=weights)):
            past = draw_tasks(weights=used, count=1, seed=0, episode=6, index=index)
            assert draw.tasks == (*past, 5)


def test_isolated_members_see_the_newest_task_alone():
    rules = toy_rules(6, mode="isolated", tasks_per_member=4)
    assert draw_episode(rules, episode=5, weights=np.ones(4))[0].tasks == (4,)
    assert rules.tasks_at(5) == 1


def test_a_zoo_has_m_members_for_each_task():
    assert toy_rules(6, members_per_episode=3).members == 18


def test_slots_sort_by_episode_and_index():
    assert sorted([Slot(2, 0), Slot(1, 1), Slot(10, 0), Slot(1, 0)]) == [
        Slot(1, 0),
        Slot(1, 1),
        Slot(2, 0),
        Slot(10, 0),
    ]


# ---- what may be wanted later


def standings(*losses):
    """As if every task kept its loss and its one member."""
    return [Standing(np.array(losses[: e + 1]), (1,) * (e + 1)) for e in range(len(losses))]


LOSSES = (0.5, 0.4, 0.9, 0.3)


def test_prospects_are_the_draws_of_episodes_that_are_not_settled():
    rules = toy_rules(8)
    found = prospects(rules, standings(*LOSSES), count=2)
    assert {p.draw.slot.episode for p in found} == {6, 7}  # 5 is settled
    for draw, chance, _ in found:
        assert 0 <= chance <= 1
        assert list(draw.tasks) == sorted(set(draw.tasks))
        assert draw.tasks[-1] == draw.slot.episode - 1
    worths = [p.worth for p in found]
    assert worths == sorted(worths, reverse=True)


def test_chances_of_a_slot_do_not_add_up_to_more_than_one():
    rules = toy_rules(20, tasks_per_member=4, members_per_episode=2)
    found = prospects(rules, standings(*LOSSES), count=100)
    assert {p.draw.slot for p in found} == {Slot(e, i) for e in range(6, 21) for i in (0, 1)}
    for slot in {p.draw.slot for p in found}:
        chances = [p.chance for p in found if p.draw.slot == slot]
        assert len(chances) == 2
        assert sum(chances) <= 1


def test_what_is_nearly_known_is_drawn_as_if_it_were():
    """With the members before it there, a draw is what the known losses make it."""
    rules = toy_rules(8)
    known = {Slot(5, 0): 0.7, Slot(6, 0): 0.2}

    def fold(draw):
        return {draw.tasks[-1]: known[draw.slot]} if draw.slot in known else None

    found = prospects(rules, standings(*LOSSES), count=1, fold=fold)
    (sixth,) = draw_episode(rules, episode=6, weights=boosting_weights([*LOSSES, 0.7]))
    (seventh,) = draw_episode(rules, episode=7, weights=boosting_weights([*LOSSES, 0.7, 0.2]))
    best = {p.draw.slot.episode: p for p in reversed(found)}
    assert best[6].draw == sixth
    assert best[7].draw == seventh
    assert best[6].chance == best[7].chance == pytest.approx(1)
    assert 8 not in best  # the one that was asked for is found


def test_the_less_is_known_the_less_is_certain():
    rules = toy_rules(30, tasks_per_member=3)
    found = prospects(rules, standings(*LOSSES), count=100)
    best = {p.draw.slot.episode: p.chance for p in reversed(found)}
    near, far = (np.mean([best[e] for e in episodes]) for episodes in (range(6, 9), range(25, 31)))
    assert near > far


def test_chances_are_about_as_often_right_as_they_say():
    """Losses that move as guessed: half of the fits of chance one half are of use."""
    expected, right, trials = 0.0, 0, 0
    for seed in range(300):
        rules = toy_rules(8, seed=seed)
        rng = np.random.default_rng(seed)
        past = [
            Standing(rng.lognormal(-0.7, 0.5, e), tuple(1 for _ in range(e))) for e in range(1, 6)
        ]
        (sixth,) = draw_episode(rules, episode=6, weights=boosting_weights(past[-1].losses))
        losses = past[-1].losses.copy()
        losses[list(sixth.tasks[:-1])] *= np.exp(rng.normal(-0.2, 0.2))
        losses = np.append(losses, rng.lognormal(-0.7, 0.5))
        (truth,) = draw_episode(rules, episode=7, weights=boosting_weights(losses))
        for draw, chance, _ in prospects(rules, past, count=1):
            if draw.slot.episode == 7:
                expected, right, trials = expected + chance, right + (draw == truth), trials + 1
    assert trials == 600
    assert right == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    "rules",
    [
        toy_rules(6, mode="uniform"),
        toy_rules(6, mode="isolated"),
        toy_rules(6, tasks_per_member=6),
        toy_rules(4),
    ],
)
def test_where_every_draw_is_settled_there_are_no_prospects(rules):
    assert prospects(rules, standings(*LOSSES), count=9) == []


def test_prospects_need_no_episode_to_be_complete():
    found = prospects(toy_rules(6), [], count=2)
    assert {p.draw.slot.episode for p in found} == {3, 4}
    assert all(isinstance(p.draw, Draw) for p in found)
