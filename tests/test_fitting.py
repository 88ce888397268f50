import logging
from dataclasses import replace

import pytest
from toys import RECIPE, toy_task

from zoo_ray.errors import UserError
from zoo_ray.fitting import fit_from_store
from zoo_ray.members.fit import FitFailed, fit
from zoo_ray.members.spec import MemberSpec, TaskShare

TASKS = [toy_task("first"), toy_task("second", classes=3, seed=1)]


def spec_of(tasks, **recipe):
    shares = tuple(TaskShare(task.digest) for task in tasks)
    return MemberSpec(shares, replace(RECIPE, **recipe), 7)


SPEC = spec_of(TASKS, epochs=2)
STEPS = 8


class Shelf:
    """The part of a store that holds checkpoints."""

    def __init__(self):
        self.saved = []
        self.kept = {}

    def write_checkpoint(self, digest, checkpoint):
        self.saved.append(checkpoint.step)
        self.kept[digest] = checkpoint

    def read_checkpoint(self, digest):
        return self.kept.get(digest)

    def drop_checkpoints(self, digest):
        self.kept.pop(digest, None)


class Full(Shelf):
    def write_checkpoint(self, *_):
        raise UserError("store: cannot write; make room")


class CutShort(Exception):
    pass


class Torn(Shelf):
    """Dies after it has saved so many checkpoints."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def write_checkpoint(self, digest, checkpoint):
        super().write_checkpoint(digest, checkpoint)
        if len(self.saved) == self.steps:
            raise CutShort


def fit_here(store, spec=SPEC, tasks=TASKS, *, on_progress=lambda _: None):
    return fit_from_store(
        spec=spec,
        tasks=tasks,
        store=store,
        device="cpu",
        checkpoint_s=0,
        on_progress=on_progress,
    )


def weights(member):
    return {name: array.tobytes() for name, array in member.weights.items()}


@pytest.fixture(scope="module")
def undisturbed():
    return fit(spec=SPEC, tasks=TASKS)


def test_a_fit_leaves_checkpoints_and_gives_the_same_bits(undisturbed):
    shelf = Shelf()
    assert weights(fit_here(shelf)) == weights(undisturbed)
    assert shelf.saved == list(range(1, STEPS + 1))


def test_a_fit_cut_short_goes_on_from_its_last_checkpoint(undisturbed):
    shelf = Torn(3)
    with pytest.raises(CutShort):
        fit_here(shelf)
    member = fit_here(shelf)
    assert shelf.saved == list(range(1, STEPS + 1))
    assert weights(member) == weights(undisturbed)
    assert member.epoch_losses == undisturbed.epoch_losses


def test_a_store_keeps_where_a_fit_was_cut_short(store, undisturbed):
    def cut(progress):
        if progress.epochs_done == 1:
            raise CutShort

    with pytest.raises(CutShort):
        fit_here(store, on_progress=cut)
    member = fit_here(store)
    # It was cut before the last step of the first epoch was saved.
    assert member.first_step == STEPS // 2 - 1
    assert weights(member) == weights(undisturbed)
    assert member.epoch_losses == undisturbed.epoch_losses
    store.publish_member(SPEC, member, call="call")
    assert store.read_checkpoint(SPEC.digest) is None


def test_a_checkpoint_that_does_not_fit_is_named_and_done_without(undisturbed, caplog):
    other = Shelf()
    fit_here(other, spec_of(TASKS[:1]), TASKS[:1])
    shelf = Shelf()
    shelf.kept[SPEC.digest] = next(iter(other.kept.values()))
    with caplog.at_level(logging.WARNING, "zoo_ray"):
        assert weights(fit_here(shelf)) == weights(undisturbed)
    assert shelf.saved == list(range(1, STEPS + 1))
    (message,) = caplog.messages
    assert SPEC.digest[:12] in message


def test_a_checkpoint_of_other_hardware_is_named_and_done_without(undisturbed, caplog):
    shelf = Shelf()
    fit_here(shelf)
    elsewhere = replace(shelf.kept[SPEC.digest], hardware={"device": "another"}, step=STEPS)
    shelf.kept[SPEC.digest], shelf.saved = elsewhere, []
    with caplog.at_level(logging.WARNING, "zoo_ray"):
        member = fit_here(shelf)
    assert weights(member) == weights(undisturbed)
    assert member.first_step == 0
    assert "another" in caplog.text


def test_a_checkpoint_that_cannot_be_saved_is_named_and_done_without(undisturbed, caplog):
    with caplog.at_level(logging.WARNING, "zoo_ray"):
        assert weights(fit_here(Full())) == weights(undisturbed)
    assert len(caplog.messages) == STEPS
    assert all("make room" in message for message in caplog.messages)


def test_a_failed_fit_is_not_begun_again():
    shelf = Shelf()
    spec = spec_of(TASKS, lr=1e6, epochs=3)
    with pytest.raises(FitFailed):
        fit_here(shelf, spec)
    assert shelf.saved[0] == 1
    assert len(set(shelf.saved)) == len(shelf.saved)


def test_tasks_of_another_spec_are_refused():
    with pytest.raises(ValueError, match="not those of the spec"):
        fit_here(Shelf(), tasks=TASKS[:1])
