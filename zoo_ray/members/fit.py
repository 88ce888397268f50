"""Fit a member: a pure function of its specification and the tasks' arrays."""

import ctypes
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from torch.optim.sgd import sgd

from zoo_ray.members.augment import PAD, crop_and_flip, epoch_order, epoch_shifts, normalise
from zoo_ray.members.hardware import hardware, processor
from zoo_ray.members.member import (
    Checkpoint,
    CutShort,
    FitFailed,
    FitProgress,
    Member,
    OutOfMemory,
)
from zoo_ray.members.predict import (
    autocast,
    draws,
    input_dtype,
    predict_images,
    seed_draws,
    torch_settings,
)
from zoo_ray.members.spec import MemberSpec, TaskShare
from zoo_ray.networks import build_network
from zoo_ray.networks.heads import MultiHead
from zoo_ray.networks.own import UnusableTrunk
from zoo_ray.task import Task

MOMENTUM = 0.9
_PROGRESS_INTERVAL_S = 0.5
_BATCHES_AT_ONCE = 16
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


class Misfit(ValueError):
    """A checkpoint is not one of this fit; begin afresh."""


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
            epoch. It may raise `CutShort`.
        resume: where to go on; the bits are those of a fit that was never cut short.
        checkpoint_s: a checkpoint is taken each time the fit has gone on for so many seconds since
            it began, or since the last one was taken; None: never; 0: at every step.
        on_checkpoint: called with each checkpoint, which is the callee's to keep; with one more
            when the fit is cut short.

    Returns:
        The member, with its predictions on the clean images of every part of its tasks.

    Raises:
        FitFailed: the loss, or a weight, stopped being a finite number; or a user's own trunk is
            not that of the spec.
        OutOfMemory: there is not enough memory.
        CutShort: `on_progress` did.
        Misfit: `resume` is not a checkpoint of such a fit.
        ValueError: the tasks are not those of the spec, or the network does not take their images.
    """
    if [task.digest for task in tasks] != [share.digest for share in spec.tasks]:
        raise ValueError("the tasks are not those of the spec")
    started = time.perf_counter()
    _keep_freed_memory()
    tell = _Every(_PROGRESS_INTERVAL_S, on_progress)
    save = _Every(math.inf if checkpoint_s is None else checkpoint_s, on_checkpoint)
    with torch_settings(threads=spec.recipe.threads), _memory_errors(spec, device):
        network = _new_network(spec, tasks).to(device).to(memory_format=torch.channels_last)
        training = _Training(network)
        try:
            gpus = [network.closed.device] if network.closed.device.type == "cuda" else []
            with torch.random.fork_rng(devices=gpus, enabled=draws(spec)):
                _train(training, spec, tasks, resume=resume, tell=tell, save=save)
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
        hardware=_hardware(network.closed.device),
    )
    if not member.is_finite():
        raise FitFailed(f"weights are no longer finite numbers; {_remedy(spec)}")
    return member


def release_memory() -> None:
    """Give back what a GPU keeps of fits that are over, for whoever shares it."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def _hardware(device: torch.device) -> dict[str, str]:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return hardware(
        device=gpu or f"{processor()} {torch.backends.cpu.get_cpu_capability()}",
        torch_version=torch.__version__,
    )


@cache
def _keep_freed_memory() -> None:
    """Tell glibc to keep what is freed: a step frees and takes back the same megabytes, which
    would otherwise be thousands of page faults each time (measured: 20% to 60% of a fit)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


@contextmanager
def _memory_errors(spec: MemberSpec, device: str) -> Iterator[None]:
    """Make `OutOfMemory` of all the ways in which memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # The CPU's allocator and the GPU's libraries raise plain RuntimeErrors.
        told = "DefaultCPUAllocator", "CUDA error: out of memory", "STATUS_ALLOC_FAILED"
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(
            words in str(error) for words in told
        ):
            raise
        fewer = "members per GPU (more workers.gpus)" if device != "cpu" else "workers.count"
        raise OutOfMemory(
            f"out of memory ({device}); try a smaller recipe.batch than {spec.recipe.batch}, or "
            f"fewer {fewer}"
        ) from error


def _new_network(spec: MemberSpec, tasks: Sequence[Task]) -> MultiHead:
    shapes = {task.image_shape for task in tasks}
    if len(shapes) > 1:
        raise ValueError(f"the tasks' images differ in shape: {sorted(shapes)}")
    with torch.random.fork_rng(devices=[]):
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
        except UnusableTrunk as error:
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


class _Training:
    """All that changes while a network is trained.

    Attributes:
        network: its parameters and buffers change in place.
        hardware: what it is trained on.
        momenta: of its parameters, in their order.
        step: steps done, over all epochs.
        epoch_losses: mean training loss of each complete epoch.
        loss_sum: of the samples that the present epoch has seen; stays on the device.
    """

    def __init__(self, network: MultiHead) -> None:
        self.network = network
        self.hardware = _hardware(network.closed.device)
        self.momenta = [torch.zeros_like(weight) for weight in network.parameters()]
        self.step = 0
        self.epoch_losses: list[float] = []
        self.loss_sum = torch.zeros((), device=network.closed.device)

    def end_epoch(self, loss: float) -> None:
        """Note the epoch's mean loss and begin the next one."""
        self.epoch_losses.append(loss)
        self.loss_sum.zero_()

    def to_checkpoint(self) -> Checkpoint:
        """A copy of all this, in the machine's memory."""
        # np.array copies, which .cpu() on a CPU does not.
        arrays = {
            name: np.array(tensor.cpu().numpy(), order="C")
            for name, tensor in self._tensors().items()
        }
        return Checkpoint(self.step, self.epoch_losses.copy(), arrays, self.hardware)

    def load(self, checkpoint: Checkpoint, *, steps: int, epochs: int) -> None:
        """Take over a checkpoint of a training that has so many steps in each of its epochs.

        Raises:
            Misfit: it is of another training.
        """
        step, losses = checkpoint.step, checkpoint.epoch_losses
        if not 0 <= step <= steps * epochs or len(losses) != step // steps:
            raise Misfit(
                f"step {step} with {len(losses)} epochs' losses, in {epochs} epochs of {steps}"
            )
        if checkpoint.hardware != self.hardware:
            raise Misfit(f"it was fitted on {checkpoint.hardware}, this is {self.hardware}")
        expected, found = (_layout(c.arrays) for c in (self.to_checkpoint(), checkpoint))
        if expected != found:
            wrong = sorted(name for name, _ in set(expected.items()) ^ set(found.items()))
            raise Misfit(f"its {wrong[0]} is not that of the network")
        self.step, self.epoch_losses = step, losses.copy()
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                # In place, as the layout in memory decides bits too.
                tensor.copy_(torch.tensor(checkpoint.arrays[name]))

    def _tensors(self) -> dict[str, torch.Tensor]:
        names = [name for name, _ in self.network.named_parameters()]
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        momenta = {f"momentum.{n}": value for n, value in zip(names, self.momenta, strict=True)}
        return state | momenta | {"loss_sum": self.loss_sum}


def _layout(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (array.dtype.str, array.shape) for name, array in arrays.items()}


class _TrainingSet:
    """The training samples of all tasks, resident on the device."""

    def __init__(
        self, network: MultiHead, shares: Sequence[TaskShare], tasks: Sequence[Task], *, pad: int
    ) -> None:
        chosen = [share.rows(task.train.labels) for task, share in zip(tasks, shares, strict=True)]
        device = network.closed.device
        images = np.concatenate(
            [task.train.images[rows] for task, rows in zip(tasks, chosen, strict=True)]
        )
        edges = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        self.images = torch.from_numpy(np.pad(images, edges) if pad else images).to(device)
        heads = np.repeat(np.arange(len(tasks)), [len(rows) for rows in chosen])
        self.heads = torch.from_numpy(heads).to(device)
        # The true class as a row of the network's linear layer, whatever the head.
        rows_of_class = [
            task.train.labels[rows] + network.rows[head].start
            for head, (task, rows) in enumerate(zip(tasks, chosen, strict=True))
        ]
        self.targets = torch.from_numpy(np.concatenate(rows_of_class)).to(device)

    def __len__(self) -> int:
        return len(self.targets)

    def batches(
        self, spec: MemberSpec, *, epoch: int, first: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """The trunk's input, the heads and the targets of an epoch's steps, from `first` on."""
        recipe, device = spec.recipe, self.targets.device
        order = epoch_order(seed=spec.seed, epoch=epoch, samples=len(self))
        visited = torch.from_numpy(order).to(device)
        shifts = epoch_shifts(seed=spec.seed, epoch=epoch, samples=len(self), flip=recipe.flip)
        shifts = shifts.to(device)
        # The small operations cost as much for many batches as for one.
        at_once = recipe.batch * _BATCHES_AT_ONCE
        chunks, skipped = divmod(first, _BATCHES_AT_ONCE)
        for start in range(chunks * at_once, len(self), at_once):
            chunk = slice(start, start + at_once)
            rows = visited[chunk]
            if recipe.crop:
                images = crop_and_flip(self.images, rows, shifts.of(chunk))
            else:
                images = self.images[rows]
            columns = normalise(images, input_dtype(spec)), self.heads[rows], self.targets[rows]
            split = (torch.split(column, recipe.batch) for column in columns)
            yield from islice(zip(*split, strict=True), skipped, None)
            skipped = 0


def _train(
    training: _Training,
    spec: MemberSpec,
    tasks: Sequence[Task],
    *,
    resume: Checkpoint | None,
    tell: _Every[FitProgress],
    save: _Every[Checkpoint],
) -> None:
    recipe, network = spec.recipe, training.network
    data = _TrainingSet(network, spec.tasks, tasks, pad=PAD if recipe.crop else 0)
    steps = math.ceil(len(data) / recipe.batch)
    total_steps = steps * recipe.epochs
    if resume is not None:
        training.load(resume, steps=steps, epochs=recipe.epochs)
    parameters: list[torch.Tensor] = []
    momenta: list[torch.Tensor | None] = []
    for weight, momentum in zip(network.parameters(), training.momenta, strict=True):
        if weight.requires_grad:
            parameters.append(weight)
            momenta.append(momentum)
    network.train()
    for epoch in range(training.step // steps, recipe.epochs):
        first = training.step % steps
        batches = data.batches(spec, epoch=epoch, first=first)
        for done, (images, heads, targets) in enumerate(batches, start=first + 1):
            seed_draws(network, spec, "dropout", spec.seed, training.step)
            lr = recipe.lr
            if recipe.schedule == "cosine":
                lr = lr * (1 + math.cos(math.pi * training.step / total_steps)) / 2
            with autocast(network, spec):
                features = network.trunk(images)
            logits = network.logits(features, heads=heads)
            loss = functional.cross_entropy(logits, targets)
            # The functions that torch.optim.SGD and backward() wrap, without their bookkeeping.
            gradients = torch.autograd.grad(
                loss, parameters, allow_unused=True, materialize_grads=True
            )
            with torch.no_grad():
                sgd(
                    parameters,
                    list(gradients),
                    momenta,
                    fused=True,
                    lr=lr,
                    momentum=MOMENTUM,
                    nesterov=True,
                    weight_decay=recipe.l2,
                    dampening=0,
                    maximize=False,
                )
            training.loss_sum += loss.detach() * len(targets)
            training.step += 1
            if tell.is_due() or done == steps:
                mean = training.loss_sum.item() / min(done * recipe.batch, len(data))
                if not math.isfinite(mean):
                    raise FitFailed(f"the loss became {mean} in epoch {epoch + 1}; {_remedy(spec)}")
                if done == steps:
                    training.end_epoch(mean)  # before it is told: the fit may be cut short there
                tell(FitProgress(epoch + done / steps, recipe.epochs, mean))
            if save.is_due():
                save(training.to_checkpoint())


def _remedy(spec: MemberSpec) -> str:
    return f"try a smaller recipe.lr than {spec.recipe.lr:g} (and another --name)"
