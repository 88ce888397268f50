"""Which worker fits what."""

from zoo_ray.cluster.leases import MAX_LOST_FITS, MUCH_BETTER, Leases, Worker
from zoo_ray.diary import Diary
from zoo_ray.members.spec import MemberSpec, Recipe, TaskShare
from zoo_ray.zoo.growth import Wanted
from zoo_ray.zoo.schedule import Slot

RECIPE = Recipe("small_conv", 1, 16, 0.01, 0.0, False, False, "float32", 1)


def wanted(number):
    spec = MemberSpec((TaskShare("task"),), RECIPE, seed=number)
    return Wanted(slot=Slot(1, number), tasks=(0,), spec=spec, samples=1)


def digest(number):
    return wanted(number).spec.digest


def offered(*numbers):
    leases = Leases()
    for number in numbers:
        leases.offer(wanted(number))
    return leases


def worker(rank, name=None, *, place=None):
    name = name or f"worker {rank}"
    return Worker(rank=rank, id=name, node="node", place=place or name)


def take(leases, of, *, now=0.0):
    leases.join(of, now=now)
    return leases.take(of, now=now)


A, B, C = (worker(rank) for rank in range(3))


def test_specs_are_leased_in_the_order_of_their_offers_and_once_each():
    leases = offered(3, 1)
    assert take(leases, A) == wanted(3)
    assert take(leases, B) == wanted(1)
    assert take(leases, C) is None
    assert leases.held() == {0: wanted(3), 1: wanted(1)}


def test_a_worker_that_asks_again_is_told_what_it_holds():
    leases = offered(1, 2)
    assert take(leases, A) == take(leases, A) == wanted(1)


def test_an_ended_spec_is_leased_to_nobody_whoever_delivered_it():
    leases = offered(1, 2)
    take(leases, A)
    leases.end(digest(1))  # by a worker that was thought dead
    leases.end(digest(2))  # from the store
    assert take(leases, A) is None
    assert leases.held() == {}


# ---- workers that die


def test_the_spec_of_a_dead_worker_goes_first_to_whoever_asks_next():
    leases = offered(1, 2, 3)
    take(leases, A)
    take(leases, B)
    reborn = worker(0, "reborn")
    assert leases.predecessor(reborn) is A
    assert take(leases, reborn) == wanted(1)
    assert leases.predecessor(reborn) is None
    leases.end(digest(1))
    assert take(leases, reborn) == wanted(3)


def test_a_worker_may_be_known_dead_before_its_successor_comes():
    leases = offered(1)
    take(leases, A)
    take(leases, B)
    leases.dismiss(A)
    assert leases.is_gone(A)
    assert leases.predecessor(worker(0, "reborn")) is None  # nothing is left to inherit
    assert take(leases, worker(0, "reborn")) == wanted(1)


def test_a_call_of_a_dead_worker_that_still_waits_gets_nothing():
    leases = offered()
    lives = [worker(0, f"life {life}") for life in range(4)]
    for life in lives:
        assert take(leases, life) is None
    leases.offer(wanted(1))
    for life in lives[:3]:
        assert take(leases, life) is None
        assert leases.is_gone(life)
    assert take(leases, lives[3]) == wanted(1)
    assert leases.lost_too_often() is None


def test_a_spec_that_costs_worker_after_worker_is_given_up():
    leases = offered(1, 2)
    for life in range(MAX_LOST_FITS):
        assert leases.lost_too_often() is None
        assert take(leases, worker(0, f"life {life}")) == wanted(1)
    assert take(leases, worker(0, "last life")) == wanted(2)
    assert leases.lost_too_often() == wanted(1)


def test_a_spec_is_not_to_blame_for_lost_nodes_nor_for_the_death_of_others():
    leases = offered(1, 2)
    take(leases, B)
    for life in range(2 * MAX_LOST_FITS):
        mortal = worker(0, f"life {life}")
        assert take(leases, mortal) == wanted(2)
        leases.dismiss(mortal, excused=True)
    assert leases.lost_too_often() is None
    assert leases.held() == {1: wanted(1)}


# ---- workers that say nothing


def test_a_worker_that_reports_keeps_its_spec_and_one_that_does_not_is_quiet():
    leases = offered(1, 2)
    take(leases, A, now=0.0)
    take(leases, B, now=0.0)
    take(leases, C, now=0.0)  # holds nothing: it has nothing to say
    leases.claim(A, digest(1), now=9.0)
    assert leases.quiet(now=10.0, for_s=5.0) == [B]
    assert leases.quiet(now=5.0, for_s=5.0) == []


def test_what_a_dismissed_worker_delivers_late_ends_the_spec_for_its_new_holder_too():
    leases = offered(1)
    take(leases, A)
    leases.dismiss(A)
    assert take(leases, B) == wanted(1)
    leases.end(digest(1))
    assert leases.held() == {}
    leases.dismiss(A)  # again: nothing happens
    assert take(leases, B) is None


def test_a_report_of_a_dismissed_worker_claims_nothing():
    leases = offered(1)
    take(leases, A)
    leases.dismiss(A)
    leases.claim(A, digest(1), now=1.0)
    assert leases.held() == {}
    assert take(leases, B) == wanted(1)


# ---- a driver that has restarted


def test_a_new_driver_learns_what_its_workers_are_fitting():
    leases = offered(1, 2, 3)
    leases.claim(B, digest(2), now=0.0)
    assert leases.held() == {1: wanted(2)}
    assert take(leases, A) == wanted(1)
    assert take(leases, B) == wanted(2)
    assert take(leases, C) == wanted(3)


def test_two_claims_of_one_spec_leave_it_with_the_first():
    leases = offered(1)
    leases.claim(A, digest(1), now=0.0)
    leases.claim(B, digest(1), now=0.0)
    assert leases.held() == {0: wanted(1)}


# ---- workers that share a GPU

D, E = (worker(rank, place="gpu") for rank in (0, 1))


def test_what_does_not_fit_beside_others_is_tried_alone_once():
    leases = offered(1, 2, 3)
    take(leases, D)
    take(leases, E)
    assert leases.retry_alone(D, digest(1))
    assert take(leases, D) is None  # E still fits here
    leases.end(digest(2))
    assert take(leases, E) == wanted(1)
    assert take(leases, D) is None  # and now nobody else may
    assert not leases.retry_alone(E, digest(1))
    leases.end(digest(1))
    assert take(leases, D) == wanted(3)


def test_an_empty_place_takes_what_is_to_be_alone_at_once():
    leases = offered(1, 2)
    take(leases, D)
    take(leases, E)
    leases.retry_alone(D, digest(1))
    assert take(leases, worker(2)) == wanted(1)


def test_what_is_to_be_alone_goes_before_lower_turns():
    """Or nobody had company for as long as these have specs."""
    leases = Leases()
    leases.offer(wanted(1), turn=(2,))
    take(leases, D)
    take(leases, E)
    leases.retry_alone(D, digest(1))
    leases.offer(wanted(2), turn=(1,))
    assert take(leases, D) == wanted(1)


def test_what_was_alone_already_is_not_tried_again():
    leases = offered(1)
    take(leases, D)
    assert not leases.retry_alone(D, digest(1))
    assert not leases.retry_alone(E, digest(1))  # not its spec


def test_a_spec_is_suspected_alone_before_it_is_to_blame_for_a_process_of_several():
    """Spec 1 ends every process that fits it, with whatever else is fitted there."""
    leases = offered(1, 2)

    def dies(life, *, beside):
        slots = [worker(rank, f"{rank} in life {life}", place="gpu") for rank in (0, 1)]
        taken = [take(leases, slot) for slot in slots]
        assert wanted(1) in taken
        assert (wanted(2) if beside else None) in taken
        for slot in slots:
            leases.dismiss(slot)

    dies(1, beside=True)
    dies(2, beside=True)
    for life in range(3, 3 + MAX_LOST_FITS):
        assert leases.lost_too_often() is None
        dies(life, beside=False)
    assert leases.lost_too_often() == wanted(1)
    assert take(leases, D) == wanted(2)


# ---- speculation


def considered(leases, *worths):
    """Speculative specs 10, 11, ... with these worths."""
    for number, worth in enumerate(worths, start=10):
        leases.consider(wanted(number), worth=worth)
    return leases


def reconsidered(leases, *worths):
    leases.reconsider({digest(number): w for number, w in enumerate(worths, start=10)})


def test_certain_specs_come_first_then_the_best():
    leases = considered(offered(1), 0.5, 0.9, 0.7)
    assert take(leases, A) == wanted(1)
    assert take(leases, B) == wanted(11)
    assert take(leases, C) == wanted(12)


def test_a_speculative_spec_becomes_certain_where_it_waits_or_is_held():
    leases = considered(offered(), 0.9, 0.5)
    take(leases, A)
    leases.offer(wanted(10))
    leases.offer(wanted(11))
    leases.offer(wanted(1))
    assert take(leases, B) == wanted(11)
    assert leases.answer(A, digest(10)) == "go on"  # though a certain one waits
    reconsidered(leases)
    assert leases.answer(A, digest(10)) == "go on"
    assert take(leases, C) == wanted(1)


def test_what_waits_as_certain_is_not_leased_as_speculative_too():
    leases = considered(offered(10), 0.9)
    assert take(leases, A) == wanted(10)
    assert take(leases, B) is None


def test_what_has_no_worth_any_more_is_dropped_and_leased_to_nobody():
    leases = considered(offered(), 0.9, 0.5)
    take(leases, A)
    reconsidered(leases)
    assert leases.answer(A, digest(10)) == "drop"
    leases.give_back(A, digest(10))
    assert take(leases, A) is None
    assert take(leases, B) is None


def test_the_worst_yield_to_certain_specs_and_go_on_later():
    leases = considered(offered(), 0.9, 0.5, 0.7)
    for of in (A, B, C):
        take(leases, of)
    fits = {A: digest(10), B: digest(12), C: digest(11)}
    assert [leases.answer(of, fits[of]) for of in fits] == ["go on"] * 3
    leases.offer(wanted(1))
    assert [leases.answer(of, fits[of]) for of in fits] == ["go on", "go on", "yield"]
    assert leases.answer(C, fits[C]) == "yield"  # until it has heard
    leases.offer(wanted(2))
    assert [leases.answer(of, fits[of]) for of in fits] == ["go on", "yield", "yield"]
    leases.give_back(C, fits[C])
    assert take(leases, C) == wanted(1)
    leases.give_back(B, fits[B])
    assert take(leases, B) == wanted(2)
    assert leases.answer(A, fits[A]) == "go on"
    leases.end(digest(1))
    assert take(leases, C) == wanted(12)


def test_a_fit_yields_to_one_that_is_much_better():
    leases = considered(offered(), 0.3)
    take(leases, A)
    leases.consider(wanted(11), worth=0.8)
    assert leases.answer(A, digest(10)) == "go on"
    leases.consider(wanted(12), worth=0.3 * MUCH_BETTER + 0.05)
    assert leases.answer(A, digest(10)) == "yield"
    leases.give_back(A, digest(10))
    assert take(leases, A) == wanted(12)


def test_one_fit_yields_to_one_better_spec():
    leases = considered(offered(), 0.2, 0.1)
    take(leases, A)
    take(leases, B)
    leases.consider(wanted(12), worth=0.9)
    assert [leases.answer(A, digest(10)), leases.answer(B, digest(11))] == ["go on", "yield"]


def test_a_report_of_what_is_not_held_is_answered_with_yield():
    leases = considered(offered(), 0.9)
    take(leases, A)
    assert leases.answer(A, digest(11)) == "yield"
    assert leases.answer(B, digest(10)) == "yield"
    leases.give_back(B, digest(10))
    assert leases.held() == {0: wanted(10)}


def test_a_speculative_spec_that_cost_its_worker_waits_until_it_is_certain():
    leases = considered(offered(), 0.9)
    take(leases, A)
    leases.dismiss(A)
    leases.consider(wanted(10), worth=0.9)
    assert take(leases, B) is None
    leases.offer(wanted(10))
    assert take(leases, B) == wanted(10)
    assert leases.lost_too_often() is None


def test_a_speculative_spec_is_not_to_blame_for_a_lost_node():
    leases = considered(offered(), 0.9)
    take(leases, A)
    leases.dismiss(A, excused=True)
    assert take(leases, B) == wanted(10)


def test_a_new_driver_learns_of_speculative_fits_too():
    leases = considered(offered(1), 0.9)
    leases.claim(B, digest(10), now=0.0)
    assert leases.held() == {1: wanted(10)}
    leases.consider(wanted(10), worth=0.8)
    assert take(leases, A) == wanted(1)
    assert take(leases, C) is None


def test_what_is_withdrawn_is_dropped_and_does_not_come_back():
    leases = offered(1, 2)
    take(leases, A)
    for number in (1, 2):
        leases.withdraw(digest(number))
    assert leases.answer(A, digest(1)) == "drop"
    leases.dismiss(A)
    assert leases.waiting == 0
    assert take(leases, B) is None
    leases.offer(wanted(1))
    assert take(leases, B) == wanted(1)


def test_lower_turns_come_first_whenever_they_were_offered():
    leases = Leases()
    for number, turn in ((1, (2, 0)), (2, (0, 1)), (3, (2, 0)), (4, (0, 0))):
        leases.offer(wanted(number), turn=turn)
    assert [take(leases, worker(rank)) for rank in range(4)] == [wanted(n) for n in (4, 2, 1, 3)]


# ---- the diary


def test_the_diary_says_who_held_what_for_how_long_and_how_it_ended():
    seconds = iter(range(100))
    leases = Leases(diary=Diary(clock=lambda: float(next(seconds))))
    leases.offer(wanted(1))
    leases.consider(wanted(2), worth=1.0)
    leases.consider(wanted(3), worth=0.5)
    take(leases, A)  # at 0
    take(leases, B)  # at 1
    leases.end(digest(1))  # at 2
    take(leases, A)  # at 3
    leases.dismiss(A)  # at 4
    leases.give_back(B, digest(2))  # at 5
    take(leases, B)  # at 6
    leases.avoid(digest(2))  # at 7
    leases.offer(wanted(4))
    take(leases, B)  # at 8
    noted = [(*fit[2:6], fit.digest, fit.ending) for fit in leases.diary.fits(workers=2)]
    assert noted == [
        (0, 0.0, 2.0, True, digest(1), "published"),
        (0, 3.0, 4.0, False, digest(3), "lost"),
        (1, 1.0, 5.0, False, digest(2), "left"),
        (1, 6.0, 7.0, False, digest(2), "failed"),
        (1, 8.0, 9.0, True, digest(4), "open"),
    ]
    leases.diary.close("left")
    leases.end(digest(4))  # heard late
    assert [fit.ending for fit in leases.diary.fits(workers=2)][-1] == "left"
