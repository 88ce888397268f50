"""Training on a GPU as CUDA graphs: one launch for several steps, where eager code takes a hundred
for each.

All that the steps read lies on the device, in tensors that stay: the samples, an epoch's choices,
and a counter of its chunks of steps, which each chunk counts up. A chunk is first learnt as it is,
which readies the libraries; then it is captured, and replayed ever after. The kernels are those of
steps taken one by one, and so are the bits.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import islice
from typing import Any

import torch

from zoo_ray.members.augment import Shifts
from zoo_ray.members.predict import is_random
from zoo_ray.members.training import Choices, Training, TrainingSet, learning_rate

log = logging.getLogger("zoo_ray")

CAPTURING = threading.Lock()
"""Held while a graph is captured, when no thread may give memory back to the device."""

STEPS_AT_ONCE = 8
"""Of a chunk: more save launches and cost the time that it takes to capture them."""
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
        self._training, self._data, self._spec = training, data, training.spec
        device = training.device
        at_once = STEPS_AT_ONCE * self._spec.recipe.batch
        self._chunks = [min(at_once, len(data) - n) for n in range(0, len(data), at_once)]
        """How many samples each has."""
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._lrs = torch.zeros((len(self._chunks), STEPS_AT_ONCE), device=device)
        shape = (len(self._chunks), _COLUMNS, at_once)
        self._choices = torch.zeros(shape, dtype=torch.int64, device=device)
        # They replay one after the other, so they may share their memory.
        pool = torch.cuda.graph_pool_handle() if capture else None
        self._learnt = {samples: _Replayed(pool) for samples in set(self._chunks)}
        self._next: torch.Tensor | None = None

    def epoch(self, *, epoch: int, first: int) -> Iterator[int]:
        """Train for an epoch, from step `first` of it on; after each chunk, how many steps are
        done."""
        steps = self._data.steps
        self._choices.copy_(self._choose(epoch) if self._next is None else self._next)
        counted = range(epoch * steps, (epoch + 1) * steps)
        lrs = torch.zeros(self._lrs.shape)
        lrs.view(-1)[:steps] = torch.tensor(
            [learning_rate(self._spec, step=step, steps=steps) for step in counted]
        )
        self._lrs.copy_(lrs)
        begun, skipped = divmod(first, STEPS_AT_ONCE)
        self._at.fill_(begun)
        for chunk, samples in enumerate(self._chunks[begun:], begun):
            if skipped:  # the checkpoint is from chunks of another length
                self._learn(samples, skipped)
                skipped = 0
            else:
                self._learnt[samples](partial(self._learn, samples))
            done = min(steps, (chunk + 1) * STEPS_AT_ONCE)
            if done == steps and epoch + 1 < self._spec.recipe.epochs:
                # While the device is still at it.
                self._next = self._choose(epoch + 1)
            yield done

    def _choose(self, epoch: int) -> torch.Tensor:
        """The choices of an epoch, as `_choices`; what is left of the last chunk is of no use."""
        rows, shifts, heads, targets = self._data.choices(epoch)
        chunks, columns, at_once = self._choices.shape
        choices = torch.zeros((columns, chunks * at_once), dtype=torch.int64)
        for column, values in zip(choices, (rows, *shifts, heads, targets), strict=True):
            column[: len(values)] = values
        return choices.view(columns, chunks, at_once).transpose(0, 1).contiguous()

    def _learn(self, samples: int, skipped: int = 0) -> None:
        """Learn a chunk of so many samples, but for the first of its steps, that are skipped."""
        chunk = self._choices.index_select(0, self._at)[0, :, :samples]
        rows, top, left, flip, heads, targets = chunk
        chosen = Choices(rows, Shifts(top, left, flip.bool()), heads, targets)
        lrs = self._lrs.index_select(0, self._at)[0]
        for step, batch in islice(enumerate(self._data.cut(chosen)), skipped, None):
            self._training.learn(batch, lr=lrs[step : step + 1])
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
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            _warn(str(error).splitlines()[0])
            return None
    return graph


@cache
def _warn(why: str) -> None:
    log.warning("a CUDA graph cannot be captured (%s): a fit is slower without", why)
