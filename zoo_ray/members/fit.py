"""Fit a member: a pure function of its specification and the tasks' arrays."""

import ctypes
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Generic, TypeVar

import torch

from zoo_ray.members.graphs import CAPTURING, GraphedSteps, can_graph
from zoo_ray.members.member import (
    Checkpoint,
    CutShort,
    FitFailed,
    FitProgress,
    Member,
    OutOfMemory,
)
from zoo_ray.members.memory import Needed, needed_memory, room
from zoo_ray.members.predict import is_random, own_generators, predict_images, torch_settings
from zoo_ray.members.spec import MemberSpec
from zoo_ray.members.training import Misfit, Training, TrainingSet, steps_one_by_one
from zoo_ray.networks import build_network
from zoo_ray.networks.heads import MultiHead
from zoo_ray.own_code import UnusableCode
from zoo_ray.task import Task

__all__ = ["FitFailed", "Misfit", "OutOfMemory", "fit", "release_memory"]

_PROGRESS_INTERVAL_S = 0.5
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def fit(
    *,
    spec: MemberSpec,
    tasks: Sequence[Task],
    device: str = "cpu",
    on_progress: Callable[[FitProgress], None] = lambda _: None,
    resume: Checkpoint | None = None,
    checkpoint_s: float | None = None,
    on_checkpoint: Callable[[Checkpoint], None] = lambda _: None,
) -> Member:
    """Fit a member, from scratch or from where a fit of the same spec and tasks was cut short.

    Cross-entropy on each sample's own head; SGD with Nesterov momentum 0.9, L2, a cosine schedule
    per step to 0 (Ramesh & Chaudhari 2022, appendix A), unless the recipe says otherwise.

    Args:
        spec: what to fit.
        tasks: the tasks of the spec, in its order.
        device: a torch device. The bits depend on its kind.
        on_progress: called about twice a second, predictions included, and at the end of each
            epoch; on a GPU by as much later as that has been given work ahead. It may raise
            `CutShort`.
        resume: where to go on; the bits are those of a fit that was never cut short.
        checkpoint_s: a checkpoint is taken each time the fit has gone on for so many seconds since
            it began, or since the last one was taken; None: never; 0: as often as can be, at every
            step or, of a graph of several, after each graph.
        on_checkpoint: called with each checkpoint, which is the callee's to keep; with one more
            when the fit is cut short, if it had begun.

    Returns:
        The member, with its predictions on the clean images of every part of its tasks.

    Raises:
        FitFailed: the loss, or a weight, stopped being a finite number; or a user's own trunk is
            not that of the spec.
        OutOfMemory: there is not enough memory, or was not for a moment (see `shortages`).
        CutShort: `on_progress` did.
        Misfit: `resume` is not a checkpoint of such a fit.
        ValueError: the tasks are not those of the spec, or the network does not take their images.
    """
    if [task.digest for task in tasks] != [share.digest for share in spec.tasks]:
        raise ValueError("the tasks are not those of the spec")
    _keep_freed_memory()
    tell = _Every(_PROGRESS_INTERVAL_S, on_progress)
    shortages_before = shortages(device)

    def check_memory() -> None:
        if shortages(device) > shortages_before:
            raise MemoryError

    def save_sound(checkpoint: Checkpoint) -> None:
        check_memory()
        on_checkpoint(checkpoint)

    save = _Every(math.inf if checkpoint_s is None else checkpoint_s, save_sound)
    epochs_done = 0 if resume is None else len(resume.epoch_losses)
    waiting = FitProgress(epochs_done, spec.recipe.epochs, None)

    def wait() -> None:
        tell.if_due(waiting)

    with ExitStack() as held:
        held.enter_context(torch_settings(threads=spec.recipe.threads))
        held.enter_context(_memory_errors(spec, device))
        gpus = [torch.device(device)] if torch.device(device).type == "cuda" else []
        if gpus:
            needed = Needed(0, 0, 0)
            if not spec.recipe.trunk:
                needed = needed_memory(spec, tasks, alive=wait)
            # CUDA lets nobody draw while somebody captures a graph.
            held.enter_context(room(needed, device=device, alone=is_random(spec), alive=wait))
            held.enter_context(_own_stream(device))
        network = _new_network(spec, tasks, alive=wait)
        if is_random(spec):
            held.enter_context(own_generators(gpus, alive=wait))
        # In a function of its own, so that all that it took is free when the room is.
        member = _fit(network, spec, tasks, device=device, resume=resume, tell=tell, save=save)
        check_memory()
        return member


def _fit(
    network: MultiHead,
    spec: MemberSpec,
    tasks: Sequence[Task],
    *,
    device: str,
    resume: Checkpoint | None,
    tell: "_Every[FitProgress]",
    save: "_Every[Checkpoint]",
) -> Member:
    started = time.perf_counter()
    network = network.to(device).to(memory_format=torch.channels_last)
    training = Training(network, spec)
    try:
        _train(training, tasks, resume=resume, tell=tell, save=save)
        epoch_losses = training.epoch_losses
        trained = FitProgress(spec.recipe.epochs, spec.recipe.epochs, epoch_losses[-1])
        predictions = [
            {
                name: predict_images(
                    network,
                    part.images,
                    head=head,
                    spec=spec,
                    part=name,
                    alive=lambda: tell.if_due(trained),
                )
                for name, part in task.parts()
            }
            for head, task in enumerate(tasks)
        ]
    except CutShort:
        save(training.to_checkpoint())
        raise
    member = Member(
        weights={
            name: value.cpu().contiguous().numpy() for name, value in network.state_dict().items()
        },
        predictions=predictions,
        epoch_losses=epoch_losses,
        first_step=0 if resume is None else resume.step,
        fit_s=time.perf_counter() - started,
        hardware=training.hardware,
    )
    if not member.is_finite():
        raise FitFailed(f"weights are no longer finite numbers; {_remedy(spec)}")
    return member


def release_memory() -> None:
    """Give back what a GPU keeps of fits that are over: a graph's memory is of use to nobody
    else."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        with CAPTURING:
            torch.cuda.empty_cache()


_free_streams: defaultdict[str, list[torch.cuda.Stream]] = defaultdict(list)
_streams_lock = threading.Lock()


@contextmanager
def _own_stream(device: str) -> Iterator[None]:
    """Do what is done on a GPU beside what other threads do there."""
    # torch has 32 streams and gives them in turn, whoever is on them.
    with _streams_lock:
        free = _free_streams[device]
        stream = free.pop() if free else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(stream):
            try:
                yield
            finally:
                stream.synchronize()
    finally:
        with _streams_lock:
            free.append(stream)


@cache
def _keep_freed_memory() -> None:
    """Tell glibc to keep what is freed: a step frees and takes back the same megabytes, which
    would otherwise be thousands of page faults each time (measured: 20% to 60% of a fit)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def shortages(device: str) -> int:
    """How often a GPU has had too little memory for this process.

    For want of it cuDNN takes another algorithm, of other bits, and says nothing; the process keeps
    to that one.
    """
    if torch.device(device).type != "cuda":
        return 0
    found: int = torch.cuda.memory_stats(device).get("num_ooms", 0)
    return found


def is_device_lost(error: Exception) -> bool:
    """Whether it is an error of the GPU after which this process can use it no more."""
    return isinstance(error, torch.AcceleratorError)


@contextmanager
def _memory_errors(spec: MemberSpec, device: str) -> Iterator[None]:
    """Make `OutOfMemory` of all the ways in which memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # The CPU's allocator and the GPU's libraries raise plain RuntimeErrors.
        told = (
            "DefaultCPUAllocator",
            "CUDA error: out of memory",
            "STATUS_ALLOC_FAILED",
            "unable to find an engine",  # cuDNN's last word, whether it lacks memory or a way
        )
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(
            words in str(error) for words in told
        ):
            raise
        fewer = "workers.fits" if device != "cpu" else "workers.count"
        raise OutOfMemory(
            f"out of memory ({device}); try a smaller recipe.batch than {spec.recipe.batch}, or "
            f"fewer {fewer}"
        ) from error


def _new_network(
    spec: MemberSpec, tasks: Sequence[Task], *, alive: Callable[[], None]
) -> MultiHead:
    shapes = {task.image_shape for task in tasks}
    if len(shapes) > 1:
        raise ValueError(f"the tasks' images differ in shape: {sorted(shapes)}")
    with own_generators(alive=alive):
        # Not torch.manual_seed, which would seed the GPUs' generators too.
        torch.default_generator.manual_seed(spec.seed)
        try:
            return build_network(
                spec.recipe.network,
                image_shape=tasks[0].image_shape,
                classes=[len(task.classes) for task in tasks],
                dropout=spec.recipe.dropout,
                trunk_key=spec.recipe.trunk,
            )
        except UnusableCode as error:
            raise FitFailed(f"recipe.network = {spec.recipe.network}: {error}") from error


_Told = TypeVar("_Told")


class _Every(Generic[_Told]):
    """A callback that is due again so many seconds after its last call has ended."""

    def __init__(self, seconds: float, callback: Callable[[_Told], None]) -> None:
        self._seconds = seconds
        self._callback = callback
        self._due = time.monotonic() + seconds

    def is_due(self) -> bool:
        return time.monotonic() >= self._due

    def if_due(self, told: _Told) -> None:
        if self.is_due():
            self(told)

    def __call__(self, told: _Told) -> None:
        self._callback(told)
        self._due = time.monotonic() + self._seconds


def _train(
    training: Training,
    tasks: Sequence[Task],
    *,
    resume: Checkpoint | None,
    tell: _Every[FitProgress],
    save: _Every[Checkpoint],
) -> None:
    spec, epochs = training.spec, training.spec.recipe.epochs
    data = TrainingSet(training.network, spec, tasks)
    steps = data.steps
    if resume is not None:
        training.load(resume, steps=steps, epochs=epochs)
    if can_graph(training):
        train = GraphedSteps(training, data).epoch
    else:
        train = partial(steps_one_by_one, training, data)
    training.network.train()
    for epoch in range(training.step // steps, epochs):
        for done in train(epoch=epoch, first=training.step % steps):
            training.step = epoch * steps + done
            if tell.is_due() or done == steps:
                mean = training.loss_sum.item() / min(done * spec.recipe.batch, len(data))
                if not math.isfinite(mean):
                    raise FitFailed(f"the loss became {mean} in epoch {epoch + 1}; {_remedy(spec)}")
                if done == steps:
                    training.end_epoch(mean)  # before it is told: the fit may be cut short there
                tell(FitProgress(epoch + done / steps, epochs, mean))
            if save.is_due():
                save(training.to_checkpoint())


def _remedy(spec: MemberSpec) -> str:
    return f"try a smaller recipe.lr than {spec.recipe.lr:g} (and another --name)"
