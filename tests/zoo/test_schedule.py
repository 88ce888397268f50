import numpy as np
import pytest
from toys import toy_rules

from zoo_ray.zoo.boosting import draw_tasks
from zoo_ray.zoo.schedule import Slot, draw_episode, settled_episodes


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
