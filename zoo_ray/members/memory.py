"""A GPU's memory: what a fit will need of it, and room for so many fits at once as it holds and can
do with."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from zoo_ray.members.augment import PAD
from zoo_ray.members.graphs import STEPS_AT_ONCE
from zoo_ray.members.member import OutOfMemory
from zoo_ray.members.predict import PREDICTION_BATCH, WAIT_S, own_generators
from zoo_ray.members.spec import MemberSpec
from zoo_ray.members.training import BATCHES_AT_ONCE
from zoo_ray.networks import build_network
from zoo_ray.task import Task

# cuBLAS's workspaces, of the thread that fits and of the one that goes backward, and cuDNN's.
_LIBRARIES = 192 << 20
# Memory is taken in blocks, so what is free is not all of use.
_USABLE = 0.9
# Bytes that steps keep for their way back, for each of a GPU's processors: beyond so many one more
# fit gains nothing. An H200 does most with 16 small networks or WRN-16-4 of batch 16, the most that
# were tried, and with 8 and 2 of batch 128: 0.1, 0.5, 0.4 and 0.5 GB in bfloat16.
_BUSY = 4 << 20
# Bytes for each byte of an image while batches are made: 1 cropped, 1 flipped, 1 of these two, 4 in
# float32, 2 in bfloat16.
_IN_THE_MAKING = 9
_CHOICES_BYTES = 2 * 6 * 8  # of a sample, in the epoch that is learnt and in the next one
# A larger image is counted by its pixels: to try it would take a processor minutes. A much smaller
# one is nothing to the small network.
_TRIED_PIXELS = 64


class Needed(NamedTuple):
    """Bytes that a fit takes of a GPU's memory: at least, an estimate from above, and those that a
    step keeps for its way back, which tell how much of a GPU is at work for it."""

    least: int
    most: int
    at_work: int


@dataclass
class _Device:
    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: deque[object] = field(default_factory=deque)
    free: int = 0
    taken: int = 0
    idle: int = 0
    fits: int = 0
    is_one_alone: bool = False

    def has_room(self, needed: Needed, *, alone: bool) -> bool:
        if not self.fits:
            return True
        fits = self.taken + needed.most <= _USABLE * self.free and needed.at_work <= self.idle
        return fits and not alone and not self.is_one_alone


class _Footprint(NamedTuple):
    """Bytes of a network's weights, of all that it keeps of a sample for the way back, and of the
    largest part of that."""

    weights: int
    kept: float
    largest: float


_devices: dict[str, _Device] = {}
_devices_lock = threading.Lock()
_footprints: dict[tuple[object, ...], _Footprint] = {}


def needed_memory(
    spec: MemberSpec, tasks: Sequence[Task], *, alive: Callable[[], None] = lambda: None
) -> Needed:
    """What a fit takes of a GPU's memory.

    Of a user's own trunk nothing is known; it has a GPU to itself (see `room`).

    Args:
        spec, tasks: of the fit, of a network of ours.
        alive: called twice a second while it waits for other threads.
    """
    recipe = spec.recipe
    footprint = _footprint(spec, tasks, alive)
    pad = 2 * PAD if recipe.crop else 0
    height, width, channels = tasks[0].image_shape
    sample = (height + pad) * (width + pad) * channels + _CHOICES_BYTES
    samples = sum(
        share.samples(task.train.labels) for share, task in zip(spec.tasks, tasks, strict=True)
    )
    # Steps are taken as they are before they are captured, and the graph's memory is its own.
    times, at_once = (1, BATCHES_AT_ONCE) if recipe.dropout else (2, STEPS_AT_ONCE)
    making = at_once * _IN_THE_MAKING * height * width * channels
    learning = times * recipe.batch * (footprint.kept + 3 * footprint.largest + making)
    predicting = PREDICTION_BATCH * 3 * footprint.largest
    # Weights, momenta and gradients; copies in the trunk's precision.
    data = samples * sample
    at_work = recipe.batch * footprint.kept
    least = 3 * footprint.weights + data + at_work
    most = 4 * footprint.weights + data + max(learning, predicting) + _LIBRARIES
    return Needed(int(least), int(most), int(at_work))


@contextmanager
def room(needed: Needed, *, device: str, alone: bool, alive: Callable[[], None]) -> Iterator[None]:
    """Room for a fit on a GPU, in turn, once those of this process that are there leave it so much,
    and leave the GPU something to do.

    Args:
        needed: by the fit.
        device: of torch.
        alone: whether no other fit of this process may be there.
        alive: called twice a second while it waits.

    Raises:
        OutOfMemory: the GPU does not have the least of it.
    """
    here, turn = _device(device), object()
    with here.changed:
        here.waiting.append(turn)
    try:
        while True:
            with here.changed:
                if here.waiting[0] is turn and here.has_room(needed, alone=alone):
                    _enter(here, needed, device=device, alone=alone)
                    break
                here.changed.wait(WAIT_S)
            alive()
    finally:
        with here.changed:
            here.waiting.remove(turn)
            here.changed.notify_all()
    try:
        yield
    finally:
        with here.changed:
            here.taken -= needed.most
            here.idle += needed.at_work
            here.fits -= 1
            here.is_one_alone = False
            here.changed.notify_all()


def is_full(device: str) -> bool:
    """Whether a fit of this process waits for room."""
    return bool(_device(device).waiting)


def _enter(here: _Device, needed: Needed, *, device: str, alone: bool) -> None:
    if not here.fits:  # other processes may share it, and come and go
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        here.free = free + cached
        here.idle = _BUSY * torch.cuda.get_device_properties(device).multi_processor_count
    if needed.least > here.free:
        raise OutOfMemory(
            f"a fit takes {needed.least / 1e9:.1f} GB or more and this GPU has "
            f"{here.free / 1e9:.1f} to give; try a smaller recipe.batch, a smaller "
            "benchmark.samples_per_class or fewer zoo.tasks_per_member"
        )
    here.taken += needed.most
    here.idle -= needed.at_work
    here.fits += 1
    here.is_one_alone = alone


def _device(device: str) -> _Device:
    with _devices_lock:
        return _devices.setdefault(device, _Device())


def _footprint(spec: MemberSpec, tasks: Sequence[Task], alive: Callable[[], None]) -> _Footprint:
    recipe = spec.recipe
    height, width, channels = tasks[0].image_shape
    classes = tuple(len(task.classes) for task in tasks)
    key = (recipe.network, recipe.dropout, recipe.precision, height, width, channels, classes)
    if key in _footprints:
        return _footprints[key]
    tried = (min(height, _TRIED_PIXELS), min(width, _TRIED_PIXELS))
    scale = height * width / (tried[0] * tried[1])
    narrow = 0.5 if recipe.precision == "bfloat16" else 1.0
    kept: dict[int, float] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        size = storage.nbytes() * (narrow if tensor.is_floating_point() else 1.0)
        kept.setdefault(storage.data_ptr(), size)
        return tensor

    batch = 2  # the least of which batch norm can take a variance
    with own_generators(alive=alive):
        network = build_network(
            recipe.network,
            image_shape=(*tried, channels),
            classes=classes,
            dropout=recipe.dropout,
        )
        kept |= {parameter.data_ptr(): 0.0 for parameter in network.parameters()}
        images = torch.zeros(batch, channels, *tried).contiguous(memory_format=torch.channels_last)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            # Kept alive, so that no address is given twice.
            logits = network.logits(
                network.trunk(images), heads=torch.zeros(batch, dtype=torch.int64)
            )
    del logits
    weights = sum(value.nbytes for value in network.state_dict().values())
    found = _Footprint(
        weights, scale * sum(kept.values()) / batch, scale * max(kept.values()) / batch
    )
    return _footprints.setdefault(key, found)
