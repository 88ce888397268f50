"""Training on a GPU as CUDA graphs: a launch a step, where eager code takes a hundred.

All that a step reads lies on the device, in tensors that stay: the samples, an epoch's choices, and
a counter of its steps, which each step counts up. A step is first taken as it is, which readies
the libraries; then it is captured, and replayed ever after. The kernels are those of steps taken
one by one, and so are the bits.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch

from zoo_ray.members.augment import PAD, Shifts, crop_and_flip, normalise
from zoo_ray.members.predict import input_dtype, is_random
from zoo_ray.members.training import BATCHES_AT_ONCE, Batch, Training, TrainingSet, learning_rate

log = logging.getLogger("zoo_ray")

CAPTURING = threading.Lock()
"""Held while a graph is captured, when no thread may give memory back to the device."""

_COLUMNS = 6  # of a sample's choices: its row, top, left, flip, head, target


def can_graph(training: Training) -> bool:
    """Whether a training's steps may be captured: on a GPU, of a network of ours that draws
    nothing (graphs share what CUDA draws from)."""
    return training.device.type == "cuda" and not is_random(training.spec)


class GraphedSteps:
    """The steps of a training.

    Args:
        training: whose steps they are.
        data: what it sees.
        capture: whether graphs are made, on a GPU; the bits are the same without.
    """

    def __init__(self, training: Training, data: TrainingSet, *, capture: bool = True) -> None:
        spec = training.spec
        self._training, self._data, self._spec = training, data, spec
        device, batch = training.device, spec.recipe.batch
        height, width, channels = data.images.shape[1:]
        if spec.recipe.crop:
            height, width = height - 2 * PAD, width - 2 * PAD
        chunks = -(-data.steps // BATCHES_AT_ONCE)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._lrs = torch.zeros(data.steps, device=device)
        shape = (chunks, _COLUMNS, BATCHES_AT_ONCE * batch)
        self._choices = torch.zeros(shape, dtype=torch.int64, device=device)
        # Of the chunk of batches that is being learnt.
        images = (BATCHES_AT_ONCE, batch, height, width, channels)
        self._images = torch.zeros(images, dtype=input_dtype(spec), device=device)
        labels = (BATCHES_AT_ONCE, 2, batch)
        self._labels = torch.zeros(labels, dtype=torch.int64, device=device)
        # They replay one after the other, so they may share their memory.
        pool = torch.cuda.graph_pool_handle() if capture else None
        self._prepare = _Replayed(pool)
        last = len(data) - (data.steps - 1) * batch
        self._steps = {size: _Replayed(pool) for size in {batch, last}}
        self._sizes = [batch] * (data.steps - 1) + [last]
        self._next: torch.Tensor | None = None

    def epoch(self, *, epoch: int, first: int) -> Iterator[int]:
        """Train for an epoch, from step `first` of it on; after each step, how many are done."""
        steps = self._data.steps
        self._choices.copy_(self._choose(epoch) if self._next is None else self._next)
        counted = range(epoch * steps, (epoch + 1) * steps)
        lrs = [learning_rate(self._spec, step=step, steps=steps) for step in counted]
        self._lrs.copy_(torch.tensor(lrs))
        self._at.fill_(first)
        for step in range(first, steps):
            if step == first or step % BATCHES_AT_ONCE == 0:
                self._prepare(self._make_batches)
            size = self._sizes[step]
            self._steps[size](partial(self._learn, size))
            if step + 1 == steps and epoch + 1 < self._spec.recipe.epochs:
                # While the device is still at it.
                self._next = self._choose(epoch + 1)
            yield step + 1

    def _choose(self, epoch: int) -> torch.Tensor:
        """The choices of an epoch, as `_choices`; what is left of the last chunk is of no use."""
        rows, shifts, heads, targets = self._data.choices(epoch)
        chunks, columns, at_once = self._choices.shape
        choices = torch.zeros((columns, chunks * at_once), dtype=torch.int64)
        for column, values in zip(choices, (rows, *shifts, heads, targets), strict=True):
            column[: len(values)] = values
        return choices.view(columns, chunks, at_once).transpose(0, 1).contiguous()

    def _make_batches(self) -> None:
        chunk = self._choices.index_select(0, self._at // BATCHES_AT_ONCE)[0]
        rows, top, left, flip = chunk[:4]
        if self._spec.recipe.crop:
            images = crop_and_flip(self._data.images, rows, Shifts(top, left, flip.bool()))
        else:
            images = self._data.images[rows]
        normalised = normalise(images, self._images.dtype).permute(0, 2, 3, 1)
        self._images.copy_(normalised.view_as(self._images))
        self._labels.copy_(chunk[4:].view(2, BATCHES_AT_ONCE, -1).transpose(0, 1))

    def _learn(self, size: int) -> None:
        slot = self._at % BATCHES_AT_ONCE
        images = self._images.index_select(0, slot)[0, :size].permute(0, 3, 1, 2)
        heads, targets = self._labels.index_select(0, slot)[0, :, :size]
        lr = self._lrs.index_select(0, self._at)
        self._training.learn(Batch(images, heads, targets), lr=lr)
        self._at += 1


class _Replayed:
    """Work on tensors that stay: done once, then captured, if there is a pool, and replayed.

    It keeps no reference to the work: a circle would keep a GPU's memory until Python looks for
    circles.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._graph: torch.cuda.CUDAGraph | None = None
        self._is_ready = False

    def __call__(self, work: Callable[[], None]) -> None:
        """Do the work, which is the same in every call."""
        if self._graph is None and self._is_ready and self._pool is not None:
            self._graph = _capture(work, self._pool)
            if self._graph is None:
                self._pool = None
        if self._graph is None:
            work()
            self._is_ready = True
        else:
            self._graph.replay()


def _capture(work: Callable[[], None], pool: Any) -> torch.cuda.CUDAGraph | None:
    """A graph of the work, which is not done; None if that cannot be captured here."""
    graph = torch.cuda.CUDAGraph()
    with CAPTURING:
        try:
            # Not torch.cuda.graph, which waits for all that other threads do on the device.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                work()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # the first error is the one to tell
                    graph.capture_end()
                raise
            graph.capture_end()
        except RuntimeError as error:  # out of memory, too: steps one by one need less
            _warn(str(error).splitlines()[0])
            return None
    return graph


@cache
def _warn(why: str) -> None:
    log.warning("a CUDA graph cannot be captured (%s): a fit is slower without", why)
