"""Which worker fits what."""

from zoo_ray.cluster.leases import MAX_LOST_FITS, Leases
from zoo_ray.members.spec import MemberSpec, Recipe, TaskShare
from zoo_ray.zoo.growth import Wanted
from zoo_ray.zoo.schedule import Slot

RECIPE = Recipe("small_conv", 1, 16, 0.01, 0.0, False, False, "float32", 1)


def wanted(number):
    spec = MemberSpec((TaskShare("task"),), RECIPE, seed=number)
    return Wanted(slot=Slot(1, number), tasks=(0,), spec=spec)


def offered(*numbers):
    leases = Leases()
    for number in numbers:
        leases.offer(wanted(number))
    return leases


def test_specs_are_leased_in_the_order_of_their_offers_and_once_each():
    leases = offered(3, 1)
    assert leases.take(rank=0, worker="a") == wanted(3)
    assert leases.take(rank=1, worker="b") == wanted(1)
    assert leases.take(rank=2, worker="c") is None
    assert leases.held() == {0: wanted(3), 1: wanted(1)}


def test_a_worker_that_asks_again_is_told_what_it_holds():
    leases = offered(1, 2)
    assert leases.take(rank=0, worker="a") == leases.take(rank=0, worker="a") == wanted(1)


def test_a_new_worker_of_a_rank_inherits_the_spec_of_the_dead_one():
    leases = offered(1, 2, 3)
    leases.take(rank=0, worker="a")
    leases.take(rank=1, worker="b")
    assert leases.take(rank=0, worker="reborn") == wanted(1)
    leases.end(wanted(1).spec.digest)
    assert leases.take(rank=0, worker="reborn") == wanted(3)


def test_a_call_of_a_dead_worker_that_still_waits_gets_nothing():
    leases = offered()
    for life in range(4):
        assert leases.take(rank=0, worker=f"life {life}") is None
    leases.offer(wanted(1))
    for life in range(3):
        assert leases.take(rank=0, worker=f"life {life}") is None
        assert leases.is_gone(f"life {life}")
    assert leases.take(rank=0, worker="life 3") == wanted(1)
    assert leases.lost_too_often() is None


def test_an_ended_spec_is_leased_to_nobody_whoever_delivered_it():
    leases = offered(1, 2)
    leases.take(rank=0, worker="a")
    leases.end(wanted(1).spec.digest)  # by a worker that was thought dead
    leases.end(wanted(2).spec.digest)  # from the store
    assert leases.take(rank=0, worker="a") is None
    assert leases.held() == {}


def test_a_spec_that_costs_worker_after_worker_is_given_up():
    leases = offered(1)
    for life in range(MAX_LOST_FITS):
        assert leases.take(rank=0, worker=f"life {life}") == wanted(1)
        assert leases.lost_too_often() is None
    leases.take(rank=0, worker="last life")
    assert leases.lost_too_often() == wanted(1)
