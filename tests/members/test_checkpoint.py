"""Fits cut short go on with the same bits."""

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_fit import bits, spec_of
from torch.nn import functional
from toys import toy_task

import zoo_ray.members.fit as fit_module
import zoo_ray.members.training as training_module
from zoo_ray.members.fit import FitFailed, Misfit, OutOfMemory, fit
from zoo_ray.members.member import Checkpoint, CutShort
from zoo_ray.networks import build_network

# 13 samples in batches of 2 are 7 steps, the last of them smaller.
TASKS = [
    toy_task("first", classes=2, train=7, validation=3, test=5, channels=3),
    toy_task("second", classes=3, train=6, test=4, channels=3, seed=1),
]
STEPS = 7
EPOCHS = 2


@pytest.fixture(autouse=True)
def few_batches_at_once(monkeypatch):
    """Steps 1, 4 and 7 of an epoch of 7 begin a chunk of prepared batches, the last a torn one."""
    monkeypatch.setattr(training_module, "BATCHES_AT_ONCE", 3)


def checkpoints_of(spec, tasks, **arguments):
    """The member, and the checkpoint after each step."""
    kept: list[Checkpoint] = []
    member = fit(spec=spec, tasks=tasks, checkpoint_s=0, on_checkpoint=kept.append, **arguments)
    return member, kept


def next_checkpoint(spec, tasks, resume):
    """What a fit that goes on from a checkpoint has become a step later."""

    class Cut(Exception):
        pass

    def cut(checkpoint):
        raise Cut(checkpoint)

    with pytest.raises(Cut) as caught:
        fit(spec=spec, tasks=tasks, resume=resume, checkpoint_s=0, on_checkpoint=cut)
    return caught.value.args[0]


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    assert (found.step, found.epoch_losses) == (expected.step, expected.epoch_losses)
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in found.arrays.items():
        assert array.dtype == expected.arrays[name].dtype
        assert array.shape == expected.arrays[name].shape
        assert array.tobytes() == expected.arrays[name].tobytes(), name


def through_bytes(checkpoint: Checkpoint) -> Checkpoint:
    """As a store gives it back: read-only, in plain order."""
    arrays = {
        name: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)
        for name, array in checkpoint.arrays.items()
    }
    return replace(checkpoint, arrays=arrays)


@pytest.mark.parametrize("augmented", [False, True], ids=["plain", "cropped and flipped"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_fit_resumed_after_any_step_gives_the_same_bits(precision, augmented):
    spec = spec_of(
        TASKS, batch=2, epochs=EPOCHS, precision=precision, crop=augmented, flip=augmented
    )
    undisturbed = fit(spec=spec, tasks=TASKS)
    member, kept = checkpoints_of(spec, TASKS)
    assert bits(member) == bits(undisturbed)
    assert [checkpoint.step for checkpoint in kept] == list(range(1, EPOCHS * STEPS + 1))
    assert [len(checkpoint.epoch_losses) for checkpoint in kept] == [
        step // STEPS for step in range(1, EPOCHS * STEPS + 1)
    ]
    # If every step from every checkpoint ends where the undisturbed fit's does, so do all of them.
    for before, after in pairwise(kept):
        assert_same(next_checkpoint(spec, TASKS, through_bytes(before)), after)
    for step in (STEPS + 1, EPOCHS * STEPS):
        assert bits(fit(spec=spec, tasks=TASKS, resume=kept[step - 1])) == bits(undisturbed)


def test_a_fit_with_dropout_resumed_after_any_step_gives_the_same_bits():
    keys = {"network": "wrn10_1", "dropout": 0.3, "batch": 2, "epochs": EPOCHS}
    spec = spec_of(TASKS, **keys)
    state = torch.get_rng_state()
    member, kept = checkpoints_of(spec, TASKS)
    assert torch.equal(torch.get_rng_state(), state)
    assert bits(member) != bits(fit(spec=spec_of(TASKS, **keys | {"dropout": 0.0}), tasks=TASKS))
    for before, after in pairwise(kept):
        assert_same(next_checkpoint(spec, TASKS, through_bytes(before)), after)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_grey_fit_resumed_twice_gives_the_same_bits(precision):
    tasks = [toy_task("grey", train=21), toy_task("one", classes=1, train=7, seed=1)]
    spec = spec_of(tasks, batch=4, epochs=3, precision=precision, crop=True)
    member, first = checkpoints_of(spec, tasks)
    _, second = checkpoints_of(spec, tasks, resume=first[4])
    resumed, _ = checkpoints_of(spec, tasks, resume=second[7])
    assert second[7].step == 13
    assert bits(resumed) == bits(member)


def test_a_fit_resumed_before_its_first_step_is_a_fit():
    spec = spec_of(TASKS, epochs=2)
    torch.manual_seed(spec.seed)
    network = build_network("small_conv", image_shape=(28, 28, 3), classes=[2, 3])
    arrays = {f"network.{name}": t.numpy() for name, t in network.state_dict().items()}
    arrays |= {
        f"momentum.{name}": np.zeros(tuple(weight.shape), np.float32)
        for name, weight in network.named_parameters()
    }
    hardware = fit(spec=spec, tasks=TASKS).hardware
    start = Checkpoint(0, [], arrays | {"loss_sum": np.zeros((), np.float32)}, hardware)
    assert bits(fit(spec=spec, tasks=TASKS, resume=start)) == bits(fit(spec=spec, tasks=TASKS))


def test_a_checkpoint_is_a_copy_and_is_left_as_it_was():
    spec = spec_of(TASKS, epochs=2)
    _, kept = checkpoints_of(spec, TASKS)
    weights = [checkpoint.arrays["network.heads.weight"] for checkpoint in kept]
    assert len({array.tobytes() for array in weights}) == len(kept)
    before = through_bytes(kept[3])
    fit(spec=spec, tasks=TASKS, resume=kept[3])
    assert_same(kept[3], before)
    assert all(a.flags["C_CONTIGUOUS"] and a.flags["OWNDATA"] for a in kept[3].arrays.values())


def test_without_an_interval_no_checkpoint_is_taken():
    kept = []
    fit(spec=spec_of(TASKS), tasks=TASKS, on_checkpoint=kept.append)
    assert kept == []


class Clock:
    """Time that goes on by a second at each step of a fit, and not otherwise."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        normal = training_module.sgd

        def step(*arguments, **keywords):
            self.now += 1
            normal(*arguments, **keywords)

        monkeypatch.setattr(training_module, "sgd", step)


def test_a_checkpoint_is_due_so_many_seconds_after_the_last_was_saved(monkeypatch):
    clock, steps = Clock(monkeypatch), []

    def save_slowly(checkpoint):
        steps.append(checkpoint.step)
        clock.now += 100

    spec = spec_of(TASKS, batch=2, epochs=1)
    fit(spec=spec, tasks=TASKS, checkpoint_s=2, on_checkpoint=save_slowly)
    assert steps == [2, 4, 6]


def test_a_resumed_fit_counts_from_when_it_was_resumed(monkeypatch):
    spec = spec_of(TASKS, batch=2, epochs=1)
    _, kept = checkpoints_of(spec, TASKS)
    Clock(monkeypatch)
    steps = []
    fit(
        spec=spec,
        tasks=TASKS,
        resume=kept[2],
        checkpoint_s=2,
        on_checkpoint=lambda checkpoint: steps.append(checkpoint.step),
    )
    assert steps == [5, 7]


def test_a_diverging_fit_fails_alike_when_resumed():
    spec = spec_of(TASKS, lr=1e6, epochs=3)
    kept = []
    with pytest.raises(FitFailed) as first:
        fit(spec=spec, tasks=TASKS, checkpoint_s=0, on_checkpoint=kept.append)
    with pytest.raises(FitFailed) as second:
        fit(spec=spec, tasks=TASKS, resume=kept[-1])
    assert str(second.value) == str(first.value)


# ---- checkpoints of something else


@pytest.fixture(scope="module")
def checkpoint():
    """After an epoch and a step."""
    return checkpoints_of(spec_of(TASKS, batch=2, epochs=EPOCHS), TASKS)[1][STEPS]


def with_array(checkpoint, name, array):
    return replace(checkpoint, arrays=checkpoint.arrays | {name: array})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: replace(c, arrays={}),
        lambda c: replace(c, arrays={k: a for k, a in c.arrays.items() if k != "loss_sum"}),
        lambda c: with_array(c, "more", np.zeros(3)),
        lambda c: with_array(c, "network.heads.bias", np.zeros(4, np.float32)),
        lambda c: with_array(c, "network.heads.bias", np.zeros(5, np.float64)),
        lambda c: with_array(c, "network.heads.bias", np.zeros(5, ">f4")),
        lambda c: with_array(c, "momentum.heads.bias", np.zeros((5, 1), np.float32)),
        lambda c: with_array(c, "loss_sum", np.array(["no"])),
        lambda c: replace(c, step=-1),
        lambda c: replace(c, step=EPOCHS * STEPS + 1, epoch_losses=[1.0, 1.0]),
        lambda c: replace(c, step=STEPS, epoch_losses=[]),
        lambda c: replace(c, step=STEPS - 1),
        lambda c: replace(c, epoch_losses=[1.0, 1.0]),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(checkpoint, spoil):
    spec = spec_of(TASKS, batch=2, epochs=EPOCHS)
    fit(spec=spec, tasks=TASKS, resume=checkpoint)
    with pytest.raises(Misfit):
        fit(spec=spec, tasks=TASKS, resume=spoil(checkpoint))


def test_a_checkpoint_of_other_tasks_is_refused(checkpoint):
    tasks = [toy_task("first", classes=4, train=25), toy_task("second", train=18)]
    with pytest.raises(Misfit, match="is not that of the network"):
        fit(spec=spec_of(tasks, batch=6, epochs=EPOCHS), tasks=tasks, resume=checkpoint)


# ---- signs of life


def test_a_fit_that_predicts_tells_that_it_lives(monkeypatch):
    clock, told = Clock(monkeypatch), []
    normal = functional.softmax

    def slow(*arguments, **keywords):
        clock.now += 1
        return normal(*arguments, **keywords)

    monkeypatch.setattr(functional, "softmax", slow)
    task = toy_task(train=12, test=300)
    member = fit(spec=spec_of([task], batch=12, epochs=2), tasks=[task], on_progress=told.append)
    # One for each epoch, then one for each batch of predictions: 1 of training images, 3 of test.
    assert [progress.epochs_done for progress in told] == [1, 2, 2, 2, 2, 2]
    assert {progress.loss for progress in told[1:]} == {member.epoch_losses[-1]}


# ---- out of memory


def raises(error):
    def instead(*_, **__):
        raise error

    return instead


@pytest.mark.parametrize(
    "exhaust",
    [
        lambda *_: torch.empty(1 << 60),
        lambda *_: np.empty(1 << 59),
        raises(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")),
        raises(RuntimeError("CUDA error: out of memory\nCompile with ...")),
        raises(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")),
        raises(RuntimeError("GET was unable to find an engine to execute this computation")),
    ],
    ids=["allocator", "numpy", "GPU", "driver", "library", "algorithm"],
)
def test_out_of_memory_is_one_line_that_says_what_to_try(monkeypatch, exhaust):
    monkeypatch.setattr(training_module, "normalise", exhaust)
    with pytest.raises(OutOfMemory, match=r"recipe\.batch than 8") as caught:
        fit(spec=spec_of(TASKS), tasks=TASKS)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, FitFailed)
    assert isinstance(caught.value.__cause__, MemoryError | RuntimeError)


def test_a_fit_that_did_with_too_little_memory_is_not_to_be_had(monkeypatch):
    """As cuDNN does, which then takes other algorithms."""
    saved, short = [], []
    monkeypatch.setattr(fit_module, "shortages", lambda _: 3 + len(short))

    def save(checkpoint):
        saved.append(checkpoint.step)
        if checkpoint.step == 2:
            short.append("of memory")

    with pytest.raises(OutOfMemory, match=r"recipe\.batch than 8"):
        fit(spec=spec_of(TASKS), tasks=TASKS, checkpoint_s=0, on_checkpoint=save)
    assert saved == [1, 2]
    with pytest.raises(OutOfMemory, match=r"recipe\.batch than 8"):  # in its last moment
        fit(spec=spec_of(TASKS), tasks=TASKS, on_progress=lambda _: short.append("again"))
    fit(spec=spec_of(TASKS), tasks=TASKS)  # what happened before is not its fault


def test_another_error_in_a_fit_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(training_module, "normalise", raises(RuntimeError("sizes do not match")))
    with pytest.raises(RuntimeError, match="sizes do not match"):
        fit(spec=spec_of(TASKS), tasks=TASKS)


# ---- fits that are told to end


def test_a_fit_that_is_cut_short_leaves_a_checkpoint_wherever_that_is(monkeypatch):
    """At every step and every batch of predictions."""
    monkeypatch.setattr(fit_module, "_PROGRESS_INTERVAL_S", 0)
    spec = spec_of(TASKS, batch=2, epochs=EPOCHS)
    undisturbed = fit(spec=spec, tasks=TASKS)
    told = 0

    def count(_):
        nonlocal told
        told += 1

    fit(spec=spec, tasks=TASKS, on_progress=count)
    assert told > STEPS * EPOCHS
    steps = []
    for last in range(told):
        left = iter(range(last))

        def cut(_, left=left):
            if next(left, None) is None:
                raise CutShort

        kept: list[Checkpoint] = []
        with pytest.raises(CutShort):
            fit(spec=spec, tasks=TASKS, on_progress=cut, on_checkpoint=kept.append)
        (checkpoint,) = kept
        steps.append(checkpoint.step)
        assert bits(fit(spec=spec, tasks=TASKS, resume=checkpoint)) == bits(undisturbed)
    assert steps == sorted(steps)
    assert set(steps) == set(range(1, STEPS * EPOCHS + 1))
