"""Fit a member: a pure function of its specification and the tasks' arrays."""

import ctypes
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from torch.nn import functional
from torch.optim.sgd import sgd
from torch.utils import deterministic

from zoo_ray.members.augment import PAD, crop_and_flip, epoch_order, epoch_shifts, normalise
from zoo_ray.members.hardware import hardware, processor
from zoo_ray.members.member import FitProgress, Member
from zoo_ray.members.spec import MemberSpec, TaskShare
from zoo_ray.networks import build_network
from zoo_ray.networks.heads import MultiHead
from zoo_ray.task import Predictions, Task

MOMENTUM = 0.9
# Part of what decides the bits: another batch may take another path through the convolutions.
PREDICTION_BATCH = 256
_PROGRESS_INTERVAL_S = 0.5
_BATCHES_AT_ONCE = 16
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


class FitFailed(Exception):
    """A fit has no usable result; the message says why."""


def fit(
    *,
    spec: MemberSpec,
    tasks: Sequence[Task],
    device: str = "cpu",
    on_progress: Callable[[FitProgress], None] = lambda _: None,
) -> Member:
    """Fit a member from scratch.

    Cross-entropy on each sample's own head; SGD with Nesterov momentum 0.9, L2, a cosine schedule
    per step to 0 (Ramesh & Chaudhari 2022, appendix A).

    Args:
        spec: what to fit.
        tasks: the tasks of the spec, in its order.
        device: a torch device. The bits depend on its kind.
        on_progress: called about twice a second, and at the end of each epoch.

    Returns:
        The member, with its predictions on the clean images of every part of its tasks.

    Raises:
        FitFailed: the loss, or a weight, stopped being a finite number.
        ValueError: the tasks are not those of the spec, or the network does not take their images.
    """
    if [task.digest for task in tasks] != [share.digest for share in spec.tasks]:
        raise ValueError("the tasks are not those of the spec")
    started = time.perf_counter()
    _keep_freed_memory()
    with _torch_settings(threads=spec.recipe.threads):
        network = _new_network(spec, tasks).to(device).to(memory_format=torch.channels_last)
        epoch_losses = _train(network, spec, tasks, on_progress=on_progress)
        predictions = [
            _predict_task(network, task, head=head, spec=spec) for head, task in enumerate(tasks)
        ]
    gpu = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None
    member = Member(
        weights={
            name: value.cpu().contiguous().numpy() for name, value in network.state_dict().items()
        },
        predictions=predictions,
        epoch_losses=epoch_losses,
        fit_s=time.perf_counter() - started,
        hardware=hardware(
            device=gpu or f"{processor()} {torch.backends.cpu.get_cpu_capability()}",
            torch_version=torch.__version__,
        ),
    )
    if not member.is_finite():
        raise FitFailed(f"weights are no longer finite numbers; {_remedy(spec)}")
    return member


@cache
def _keep_freed_memory() -> None:
    """Tell glibc to keep what is freed: a step frees and takes back the same megabytes, which
    would otherwise be thousands of page faults each time (measured: 20% to 60% of a fit)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


@contextmanager
def _torch_settings(*, threads: int) -> Iterator[None]:
    """Settings that decide bits, whatever the process that fits has set, and back again."""
    before = (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.get_default_dtype(),
        torch.get_deterministic_debug_mode(),
        deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch._C._get_mkldnn_enabled(),
    )
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    torch.set_default_dtype(torch.float32)
    # cuBLAS is deterministic with a workspace of a fixed size; read when CUDA is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # That would fill each new tensor with NaN, lest somebody read it before it is written: nobody
    # does, and a step makes some ninety tensors.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    cuda = {"benchmark": False, "deterministic": True, "allow_tf32": False}
    try:
        torch._C._set_mkldnn_enabled(True)  # mkldnn.flags would warn of GPUs that are not there
        with torch.backends.cudnn.flags(**cuda):
            yield
    finally:
        torch._C._set_mkldnn_enabled(before[5])
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])
        torch.set_default_dtype(before[2])
        torch.set_deterministic_debug_mode(before[3])
        deterministic.fill_uninitialized_memory = before[4]  # type: ignore[attr-defined]


def _new_network(spec: MemberSpec, tasks: Sequence[Task]) -> MultiHead:
    shapes = {task.image_shape for task in tasks}
    if len(shapes) > 1:
        raise ValueError(f"the tasks' images differ in shape: {sorted(shapes)}")
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the GPUs' generators too.
        torch.default_generator.manual_seed(spec.seed)
        return build_network(
            spec.recipe.network,
            image_shape=tasks[0].image_shape,
            classes=[len(task.classes) for task in tasks],
        )


class _TrainingSet:
    """The training samples of all tasks, resident on the device."""

    def __init__(
        self, network: MultiHead, shares: Sequence[TaskShare], tasks: Sequence[Task], *, pad: int
    ) -> None:
        chosen = [
            np.tile(_replayed(task.train.labels, share.samples_per_class), share.repeats)
            for task, share in zip(tasks, shares, strict=True)
        ]
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
        self, spec: MemberSpec, *, epoch: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """The trunk's input, the heads and the targets of each step of an epoch."""
        recipe, device = spec.recipe, self.targets.device
        order = epoch_order(seed=spec.seed, epoch=epoch, samples=len(self))
        visited = torch.from_numpy(order).to(device)
        shifts = epoch_shifts(seed=spec.seed, epoch=epoch, samples=len(self), flip=recipe.flip)
        shifts = shifts.to(device)
        # The small operations cost as much for many batches as for one.
        at_once = recipe.batch * _BATCHES_AT_ONCE
        for start in range(0, len(self), at_once):
            chunk = slice(start, start + at_once)
            rows = visited[chunk]
            if recipe.crop:
                images = crop_and_flip(self.images, rows, shifts.of(chunk))
            else:
                images = self.images[rows]
            columns = normalise(images, _dtype(spec)), self.heads[rows], self.targets[rows]
            split = (torch.split(column, recipe.batch) for column in columns)
            yield from zip(*split, strict=True)


def _replayed(labels: np.ndarray, samples_per_class: int | None) -> np.ndarray:
    """Rows of the first so many samples of each class, in stored order."""
    if samples_per_class is None:
        return np.arange(len(labels))
    kept = [np.flatnonzero(labels == label)[:samples_per_class] for label in np.unique(labels)]
    return np.sort(np.concatenate(kept))


def _train(
    network: MultiHead,
    spec: MemberSpec,
    tasks: Sequence[Task],
    *,
    on_progress: Callable[[FitProgress], None],
) -> list[float]:
    recipe = spec.recipe
    data = _TrainingSet(network, spec.tasks, tasks, pad=PAD if recipe.crop else 0)
    parameters: list[torch.Tensor] = list(network.parameters())
    momenta: list[torch.Tensor | None] = [torch.zeros_like(weight) for weight in parameters]
    steps = math.ceil(len(data) / recipe.batch)
    total_steps = steps * recipe.epochs
    network.train()
    epoch_losses = []
    reported = time.monotonic()
    for epoch in range(recipe.epochs):
        loss_sum = torch.zeros((), device=data.targets.device)
        for step, (images, heads, targets) in enumerate(data.batches(spec, epoch=epoch)):
            lr = recipe.lr * (1 + math.cos(math.pi * (epoch * steps + step) / total_steps)) / 2
            with _autocast(network, spec):
                features = network.trunk(images)
            logits = network.logits(features, heads=heads)
            loss = functional.cross_entropy(logits, targets)
            # The functions that torch.optim.SGD and backward() wrap, without their bookkeeping.
            gradients = torch.autograd.grad(loss, parameters)
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
            loss_sum += loss.detach() * len(targets)
            if time.monotonic() - reported > _PROGRESS_INTERVAL_S or step + 1 == steps:
                reported = time.monotonic()
                seen = min((step + 1) * recipe.batch, len(data))
                mean = loss_sum.item() / seen
                on_progress(FitProgress(epoch + (step + 1) / steps, recipe.epochs, mean))
                if not math.isfinite(mean):
                    raise FitFailed(f"the loss became {mean} in epoch {epoch + 1}; {_remedy(spec)}")
        epoch_losses.append(loss_sum.item() / len(data))
    return epoch_losses


@torch.inference_mode()
def _predict_task(network: MultiHead, task: Task, *, head: int, spec: MemberSpec) -> Predictions:
    network.eval()
    predictions: Predictions = {}
    for name, part in task.parts():
        rows = [np.zeros((0, len(task.classes)), dtype=np.float32)]
        for start in range(0, len(part), PREDICTION_BATCH):
            images = torch.from_numpy(part.images[start : start + PREDICTION_BATCH].copy())
            with _autocast(network, spec):
                images = normalise(images.to(network.closed.device), _dtype(spec))
                features = network.trunk(images)
            logits = network.head_logits(features, head=head)
            rows.append(functional.softmax(logits, dim=1).cpu().numpy())
        predictions[name] = np.concatenate(rows)
    return predictions


def _dtype(spec: MemberSpec) -> torch.dtype:
    """Of the trunk's input."""
    return torch.bfloat16 if spec.recipe.precision == "bfloat16" else torch.float32


def _autocast(network: MultiHead, spec: MemberSpec) -> torch.autocast:
    return torch.autocast(
        network.closed.device.type,
        dtype=torch.bfloat16,
        enabled=spec.recipe.precision == "bfloat16",
    )


def _remedy(spec: MemberSpec) -> str:
    return f"try a smaller recipe.lr than {spec.recipe.lr:g} (and another --name)"
