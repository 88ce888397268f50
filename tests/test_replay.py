import logging
from dataclasses import replace
from pathlib import Path

import pytest
from toys import deliver_toy, replayed, toy_growth, toy_member, toy_predictions, toy_rules

from zoo_ray.replay import Tally, deliver_stored
from zoo_ray.zoo.growth import Growth

RULES = toy_rules(5, tasks_per_member=2, members_per_episode=2)


def publish(store, growth: Growth, wanted) -> None:
    tasks = [growth.tasks[position] for position in wanted.tasks]
    member = replace(toy_member(), predictions=toy_predictions(wanted.spec, tasks))
    store.publish_member(wanted.spec, member, call="test")


def deliver(growth: Growth, store, digest: str) -> bool:
    return deliver_stored(growth, store, digest, tally=Tally(call="another"))


@pytest.fixture
def full_store(store):
    """A store that holds every member of the zoo, and the zoo."""
    growth = toy_growth(RULES)
    while not growth.finished:
        wanted = growth.wanted()[0]
        publish(store, growth, wanted)
        assert deliver(growth, store, wanted.spec.digest)
    return store, growth


def test_an_empty_store_gives_nothing(store):
    growth = toy_growth(RULES)
    assert replayed(growth, store) == 0
    assert growth.episodes == []


def test_a_full_store_gives_the_whole_zoo(full_store):
    store, grown = full_store
    growth = toy_growth(RULES)
    assert replayed(growth, store) == RULES.members
    assert growth.finished
    assert growth.digest() == grown.digest()
    assert replayed(growth, store) == 0


def test_replay_goes_as_far_as_members_are_there(full_store):
    store, grown = full_store
    third = grown.episodes[2].members[0]
    store.drop_member(third.digest)
    growth = toy_growth(RULES)
    # Both members of the first two episodes, and the other one of the third.
    assert replayed(growth, store) == 5
    assert len(growth.episodes) == 2
    assert [w.spec.digest for w in growth.wanted()] == [third.digest]


def corrupt(store, digest):
    (path,) = (Path(store.address) / "members" / digest).glob("predictions-*")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    return path


def test_a_corrupt_member_is_named_in_the_log_and_missing(full_store, caplog):
    store, grown = full_store
    victim = grown.episodes[1].members[1]
    path = corrupt(store, victim.digest)
    growth = toy_growth(RULES)
    with caplog.at_level(logging.WARNING, "zoo_ray"):
        replayed(growth, store)
    assert [str(path) in line for line in caplog.messages] == [True]
    assert [w.spec.digest for w in growth.wanted()] == [victim.digest]
    assert not store.has_member(victim.digest)


def test_a_corrupt_member_fitted_again_gives_the_same_zoo(full_store):
    store, grown = full_store
    corrupt(store, grown.episodes[3].members[0].digest)
    growth = toy_growth(RULES)
    replayed(growth, store)
    (wanted,) = growth.wanted()
    publish(store, growth, wanted)
    assert replayed(growth, store) == 3
    assert growth.digest() == grown.digest()


def test_a_member_of_other_shapes_is_named_in_the_log_and_missing(store, caplog):
    growth = toy_growth(RULES)
    wanted = growth.wanted()[0]
    store.publish_member(wanted.spec, toy_member(classes=(2,), sizes=(1, 0, 1)), call="test")
    with caplog.at_level(logging.WARNING, "zoo_ray"):
        assert replayed(growth, store) == 0
    assert "have shape" in caplog.text
    assert wanted.spec.digest in caplog.text
    assert not store.has_member(wanted.spec.digest)


def test_nothing_delivers_nothing(store):
    growth = toy_growth(RULES)
    assert not deliver(growth, store, growth.wanted()[0].spec.digest)


def test_what_is_not_wanted_any_more_is_not_dropped(full_store):
    store, grown = full_store
    growth = toy_growth(RULES)
    wanted = growth.wanted()[0]
    digest = wanted.spec.digest
    assert deliver(grown, store, digest)
    assert store.has_member(digest)
    deliver_toy(growth, wanted)
    assert deliver(growth, store, digest)
    assert len(growth.wanted()) == 3
