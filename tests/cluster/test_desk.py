"""The driver's state machine, driven by simulated workers: the zoo is always the sequential one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import deliver_toy, sequential, toy_growth, toy_predictions, toy_rules, toy_stream

from zoo_ray.cluster.desk import Desk
from zoo_ray.cluster.leases import Worker


def digest(wanted):
    return wanted.spec.digest


class World:
    """A desk, its workers, and a store."""

    def __init__(self, rules, *, workers, store=None):
        self.growth = toy_growth(rules)
        self.desk = Desk(self.growth, speculate=True)
        self.leases = self.desk.leases
        self.store = dict(store or {})
        self.asked_for = set()
        self.fitted = []
        self.speculative = set()
        self.busy = {}  # by worker; None: it waits
        self.orphans = []  # fits of workers that were given up
        self.lives = 0
        for rank in range(workers):
            self.join(rank)
        self.settle()

    def join(self, rank):
        self.lives += 1
        worker = Worker(rank=rank, id=f"life {self.lives}", node="", place=str(rank))
        self.leases.join(worker, now=0.0)
        self.busy[worker] = None

    def settle(self):
        """All that happens by itself: look-ups, reports and leases, until nothing changes."""
        while not self.growth.finished:
            while new := self.desk.to_look_up():
                for wanted in new:
                    self.asked_for.add(digest(wanted))
                    if digest(wanted) in self.store:
                        deliver_toy(self.growth, wanted)
                    else:
                        self.desk.missing(wanted)
            changes = [self.report(worker) or self.ask(worker) for worker in self.busy]
            if not any(changes):
                break
        self.check()

    def report(self, worker):
        wanted = self.busy[worker]
        if wanted is None or self.desk.answer(worker, digest(wanted)) == "go on":
            return False
        self.busy[worker] = None
        self.desk.give_back(worker, digest(wanted))
        return True

    def ask(self, worker):
        if self.busy[worker] is None:
            self.busy[worker] = self.leases.take(worker, now=0.0)
            if wanted := self.busy[worker]:
                assert digest(wanted) in self.asked_for
                assert digest(wanted) not in self.store
                if not self.growth.wants(digest(wanted)):
                    self.speculative.add(digest(wanted))
                return True
        return False

    def check(self):
        """No worker waits, or speculates, while a certain spec waits; none is fitted twice."""
        fits = [w.spec.digest for w in self.busy.values() if w is not None]
        assert len(fits) == len(set(fits))
        if self.growth.finished:
            return
        certain = {digest(wanted) for wanted in self.growth.wanted()}
        if certain - set(fits):
            assert len(fits) == len(self.busy)
            assert set(fits) <= certain
        assert fits or not self.busy

    def publish(self, wanted):
        self.fitted.append(digest(wanted))
        self.store[digest(wanted)] = wanted
        self.desk.published(digest(wanted))
        if self.growth.may_want(digest(wanted)):
            deliver_toy(self.growth, wanted)

    def finish(self, worker):
        wanted, self.busy[worker] = self.busy[worker], None
        self.publish(wanted)
        self.settle()

    def fail(self, worker):
        wanted, self.busy[worker] = self.busy[worker], None
        self.leases.avoid(digest(wanted))
        self.settle()

    def die(self, worker):
        """The worker is given up; what it holds may come all the same, later."""
        self.orphans.append(self.busy.pop(worker))
        self.leases.dismiss(worker, excused=True)
        self.join(worker.rank)
        self.settle()

    def deliver_late(self):
        self.publish(self.orphans.pop())
        self.settle()


def working(world):
    return [worker for worker, wanted in world.busy.items() if wanted is not None]


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_happens_the_zoo_is_the_sequential_one(data):
    rules = toy_rules(
        data.draw(st.integers(1, 8) | st.just(20), label="tasks"),
        mode=data.draw(st.sampled_from(["continual"] * 3 + ["uniform", "isolated"]), label="mode"),
        tasks_per_member=data.draw(st.integers(1, 4), label="b"),
        members_per_episode=data.draw(st.integers(1, 2), label="m"),
        seed=data.draw(st.integers(0, 9), label="seed"),
    )
    world = World(rules, workers=data.draw(st.integers(1, 6) | st.just(24), label="workers"))
    while not world.growth.finished:
        events = ["finish"] * 6 + ["die"]
        if world.orphans:
            events.append("late")
        early = [w for w in working(world) if not world.growth.wants(digest(world.busy[w]))]
        if early:
            events.append("fail")
        event = data.draw(st.sampled_from(events), label="event")
        if event == "late":
            world.deliver_late()
        elif event == "fail":
            world.fail(data.draw(st.sampled_from(early), label="which"))
        else:
            getattr(world, event)(data.draw(st.sampled_from(working(world)), label="which"))
    oracle = sequential(rules)
    assert [m.digest for m in world.growth.members()] == [m.digest for m in oracle.members()]
    assert world.growth.digest() == oracle.digest()
    assert set(world.fitted) <= world.asked_for


def test_idle_workers_fit_what_will_be_wanted():
    rules = toy_rules(12)
    world = World(rules, workers=4)
    while not world.growth.finished:
        world.finish(working(world)[0])
    used = world.speculative & {m.digest for m in world.growth.members()}
    assert len(used) > len(world.speculative) / 2 > 2


def test_without_speculation_only_certain_members_are_fitted():
    desk = Desk(toy_growth(toy_rules(12)), speculate=False)
    for wanted in desk.to_look_up():
        desk.missing(wanted)
    assert desk.to_look_up() == []
    world_of_one = World(toy_rules(12), workers=1)
    while not world_of_one.growth.finished:
        world_of_one.finish(working(world_of_one)[0])
    assert world_of_one.speculative == set()


@pytest.mark.parametrize("workers", [6, 200])  # of many, not every arrival is planned for
def test_what_the_store_holds_is_not_fitted_early(workers):
    rules = toy_rules(12)
    first = World(rules, workers=workers)
    while not first.growth.finished:
        first.finish(working(first)[-1])
    second = World(rules, workers=workers, store=first.store)
    assert second.growth.finished
    assert second.fitted == []


def test_a_fit_that_nobody_can_want_any_more_is_dropped():
    world = World(toy_rules(12, tasks_per_member=3), workers=6)
    dropped = set()
    answer = world.desk.answer

    def watch(worker, of):
        heard = answer(worker, of)
        if heard == "drop":
            dropped.add(of)
        return heard

    world.desk.answer = watch
    while not world.growth.finished:
        world.finish(next(w for w in working(world) if world.growth.wants(digest(world.busy[w]))))
    assert dropped
    assert not dropped & {m.digest for m in world.growth.members()}


def test_a_member_that_was_damaged_is_looked_up_again():
    world = World(toy_rules(3), workers=1)
    (worker,) = working(world)
    held = digest(world.busy[worker])
    assert held not in map(digest, world.desk.to_look_up())
    world.leases.end(held)
    world.desk.damaged(held)
    assert held in map(digest, world.desk.to_look_up())


def test_a_member_that_was_found_is_not_looked_up_again():
    """Among many workers, its arrival alone is not planned for."""
    growth = toy_growth(toy_rules(60))
    desk = Desk(growth, speculate=True)
    for rank in range(200):
        desk.leases.join(Worker(rank=rank, id=str(rank), node="", place=str(rank)), now=0.0)
    for wanted in desk.to_look_up():
        desk.missing(wanted)
    found, *others = desk.to_look_up()
    assert others
    deliver_toy(growth, found)
    assert desk.to_look_up() == others


def test_what_has_been_delivered_is_leased_to_nobody():
    """Its look-up was under way when it was published, and came back empty."""
    world = World(toy_rules(6), workers=1)
    (worker,) = working(world)
    wanted = world.busy[worker]
    deliver_toy(world.growth, wanted)
    assert world.desk.answer(worker, digest(wanted)) == "drop"
    world.desk.give_back(worker, digest(wanted))
    assert world.leases.take(worker, now=0.0) != wanted


def test_a_published_member_is_fitted_by_nobody_else_before_it_is_read():
    world = World(toy_rules(12, seed=8), workers=2)  # whose early member is wanted, as it turns out
    while not (early := [w for w in working(world) if digest(world.busy[w]) in world.speculative]):
        world.finish(working(world)[0])
    (worker, *_) = early
    wanted, world.busy[worker] = world.busy[worker], None
    world.desk.published(digest(wanted))
    deliver_toy(world.growth, world.growth.wanted()[0])
    for certain in world.desk.to_look_up():
        world.desk.missing(certain)
    assert wanted in world.desk.to_look_up()
    assert world.leases.take(worker, now=0.0) != wanted


class Searching:
    """A desk of several zoos, workers that fit, and a store."""

    def __init__(self, *, workers):
        self.desk = Desk(speculate=False)
        self.store = {}
        self.fitted = []
        self.busy = {}
        for rank in range(workers):
            worker = Worker(rank=rank, id=str(rank), node="", place=str(rank))
            self.desk.leases.join(worker, now=0.0)
            self.busy[worker] = None

    def settle(self):
        while new := self.desk.to_look_up():
            for wanted in new:
                if digest(wanted) in self.store:
                    self.deliver(wanted)
                else:
                    self.desk.missing(wanted)
        for worker, wanted in self.busy.items():
            if wanted and self.desk.answer(worker, digest(wanted)) == "drop":
                self.desk.give_back(worker, digest(wanted))
                self.busy[worker] = None
            if self.busy[worker] is None:
                self.busy[worker] = self.desk.leases.take(worker, now=0.0)

    def deliver(self, wanted):
        tasks = [toy_stream(8)[position] for position in wanted.tasks]
        predictions = toy_predictions(wanted.spec, tasks)
        self.desk.deliver(digest(wanted), predictions, predictions_sha256=digest(wanted))

    def finish(self, worker):
        wanted, self.busy[worker] = self.busy[worker], None
        self.fitted.append(digest(wanted))
        self.store[digest(wanted)] = wanted
        self.desk.published(digest(wanted))
        if self.desk.may_want(digest(wanted)):
            self.deliver(wanted)
        self.settle()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_zoos_share_their_members_and_each_is_the_sequential_one(data):
    """They come and go as they like."""
    rules = [
        toy_rules(8, tasks_per_member=b, members_per_episode=m) for b in (1, 2, 3) for m in (1, 2)
    ]
    searching = Searching(workers=data.draw(st.integers(1, 4), label="workers"))
    waiting, here, stopped = list(enumerate(rules)), {}, set()
    while waiting or not all(growth.finished for growth in here.values()):
        events = ["come"] * bool(waiting) + ["finish"] * 6 * bool(working(searching))
        if len(here) > 1 and len(stopped) < 2:
            events.append("stop")
        event = data.draw(st.sampled_from(events), label="event")
        if event == "come":
            number, mine = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
            here[number] = toy_growth(mine)
            searching.desk.add(here[number], turn=(number,))
        elif event == "stop":
            number = data.draw(st.sampled_from(sorted(here)), label="which")
            searching.desk.remove((number,))
            del here[number]
            stopped.add(number)
        else:
            searching.finish(data.draw(st.sampled_from(working(searching)), label="who"))
        searching.settle()
        wanted = {digest(w) for growth in here.values() for w in growth.wanted()}
        assert {digest(w) for w in searching.busy.values() if w} <= wanted
    for number, growth in here.items():
        assert growth.digest() == sequential(rules[number]).digest()
    assert len(searching.fitted) == len(set(searching.fitted))


def test_the_oldest_zoo_comes_first_and_what_nobody_wants_leaves_the_queue():
    searching = Searching(workers=1)
    old, new = toy_growth(toy_rules(8, seed=1)), toy_growth(toy_rules(8, seed=2))
    searching.desk.add(new, turn=(5,))
    searching.settle()
    (worker,) = working(searching)
    assert new.wants(digest(searching.busy[worker]))
    searching.desk.add(old, turn=(3,))
    searching.settle()
    searching.finish(worker)
    assert old.wants(digest(searching.busy[worker]))
    searching.desk.remove((3,))
    searching.settle()
    assert new.wants(digest(searching.busy[worker]))
    searching.desk.remove((5,))
    searching.settle()
    assert working(searching) == []
    assert searching.desk.leases.waiting == 0
