import logging
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from toys import RECIPE, replayed, toy_rules, toy_task

from zoo_ray.errors import UserError
from zoo_ray.members.spec import Recipe
from zoo_ray.replay import Tally
from zoo_ray.sequential import grow_here
from zoo_ray.zoo.growth import Growth

TASKS = [
    toy_task("first", classes=2, train=16),
    toy_task("second", classes=3, train=18, validation=3, seed=1),
    toy_task("third", classes=2, train=12, seed=2),
]
RULES = toy_rules(len(TASKS), members_per_episode=2)


def new_growth(recipe: Recipe = RECIPE) -> Growth:
    return Growth(tasks=[task.without_images() for task in TASKS], rules=RULES, recipe=recipe)


def grow(store, *, recipe=RECIPE, on_progress=lambda _: None):
    growth, tally = new_growth(recipe), Tally(call=uuid.uuid4().hex)
    progress = grow_here(
        folder="runs/run",
        growth=growth,
        store=store,
        tasks=TASKS,
        device="cpu",
        checkpoint_s=60,
        tally=tally,
        on_progress=on_progress,
    )
    assert (progress.first_fit is None) == (not tally.ours)
    return growth, tally


def test_it_fits_every_member_and_publishes_it(store):
    growth, grown = grow(store)
    assert growth.finished
    assert len(grown.ours) == 6
    assert all(store.has_member(member.digest) for member in growth.members())
    again = new_growth()
    assert replayed(again, store) == 6
    assert again.digest() == growth.digest()


def test_what_the_store_holds_is_not_fitted(store):
    first, _ = grow(store)
    second, grown = grow(store)
    assert (len(grown.ours), len(grown.others)) == (0, 6)
    assert second.digest() == first.digest()


def test_a_corrupt_member_is_fitted_again_to_the_same_bits(store, caplog):
    first, _ = grow(store)
    for episode, kind in ((0, "predictions"), (2, "predictions")):
        folder = Path(store.address) / "members" / first.episodes[episode].members[0].digest
        (path,) = folder.glob(f"{kind}-*")
        path.write_bytes(b"")
    with caplog.at_level(logging.WARNING, "zoo_ray"):
        second, grown = grow(store)
    assert len(grown.ours) == len(caplog.messages) == 2
    assert second.digest() == first.digest()


def test_progress_grows_from_nothing_to_all(store):
    told = []
    grow(store, recipe=replace(RECIPE, epochs=2), on_progress=told.append)
    for values in (
        [p.episodes_done for p in told],
        [p.members_done for p in told],
        [p.fitted for p in told],
    ):
        assert values == sorted(values)
    shares = [p.work_share for p in told]
    assert shares[0] == 0
    # The samples of members not drawn yet are a guess, so shares may step back: at a draw alone.
    assert all(0 <= share <= 1 for share in shares)
    last = told[-1]
    assert (last.episodes_done, last.members_done, last.fitted) == (3, 6, 6)
    assert (last.work_share, last.fits) == (1.0, ())
    assert 0 < last.test_accuracy <= 1
    fits = [fit for p in told for fit in p.fits]
    assert {(fit.episode, fit.index) for fit in fits} == {(e, i) for e in (1, 2, 3) for i in (0, 1)}
    assert fits[0].tasks == ("first",)
    assert all(0 <= fit.epochs_done <= fit.epochs == 2 for fit in fits)


def test_a_failed_fit_names_its_member_in_one_line(store):
    with pytest.raises(UserError, match=r"member 1 of episode 1: .*recipe\.lr") as caught:
        grow(store, recipe=replace(RECIPE, lr=1e6, epochs=3))
    assert "\n" not in str(caught.value)
    log = Path(str(caught.value).rpartition("; see ")[2])
    assert log == Path(store.address) / "runs/run/failures/member-1-1.log"
    assert "Traceback" in log.read_text()


def test_what_was_fitted_before_a_failure_stays(store):
    class Stop(Exception):
        pass

    def stop(progress):
        if progress.fitted == 2:
            raise Stop

    with pytest.raises(Stop):
        grow(store, on_progress=stop)
    growth = new_growth()
    assert replayed(growth, store) == 2
    _, grown = grow(store)
    assert len(grown.ours) == 4
