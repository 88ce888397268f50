"""A GPU's memory: what a fit will need of it, and room for so many fits at once as it holds."""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo_ray.members.augment import PAD
from zoo_ray.members.member import OutOfMemory
from zoo_ray.members.predict import GENERATORS, PREDICTION_BATCH
from zoo_ray.members.spec import MemberSpec
from zoo_ray.networks.heads import MultiHead
from zoo_ray.task import Task

# cuBLAS's workspaces, of the thread that fits and of the one that goes backward, and cuDNN's.
_LIBRARIES = 192 << 20
# Memory is taken in blocks, so what is free is not all of use.
_USABLE = 0.9
_CHOICES_BYTES = 2 * 6 * 8  # of a sample, in the epoch that is learnt and in the next one
_WAIT_S = 0.5


@dataclass
class _Device:
    changed: threading.Condition
    usable: int = 0
    taken: int = 0
    fits: int = 0
    is_one_alone: bool = False


_devices: dict[str, _Device] = {}
_devices_lock = threading.Lock()
_footprints: dict[tuple[object, ...], tuple[float, float]] = {}


def fit_bytes(network: MultiHead, spec: MemberSpec, tasks: Sequence[Task]) -> int:
    """What a fit will take of a GPU's memory at most, as an estimate from above.

    Args:
        network: of the member, in the machine's memory.
        spec, tasks: of the fit.
    """
    recipe = spec.recipe
    saved, largest = _footprint(network, spec, tasks[0].image_shape)
    weights = sum(value.nbytes for value in network.state_dict().values())
    pad = 2 * PAD if recipe.crop else 0
    height, width, channels = tasks[0].image_shape
    sample = (height + pad) * (width + pad) * channels + _CHOICES_BYTES
    samples = sum(
        share.samples(task.train.labels) for share, task in zip(spec.tasks, tasks, strict=True)
    )
    # A step is taken as it is before it is captured, and the graph's memory is its own.
    learning = 2 * recipe.batch * (saved + 3 * largest)
    predicting = PREDICTION_BATCH * 3 * largest
    # Weights, momenta, gradients, and copies in the trunk's precision.
    return int(4 * weights + samples * sample + max(learning, predicting)) + _LIBRARIES


@contextmanager
def room(needed: int, *, device: str, alone: bool, alive: Callable[[], None]) -> Iterator[None]:
    """Room for a fit on a GPU, once those of this process that are there leave it so much.

    Args:
        needed: bytes.
        device: of torch.
        alone: whether no other fit of this process may be there.
        alive: called twice a second while it waits.

    Raises:
        OutOfMemory: the GPU does not have so much.
    """
    here = _device(device)
    with here.changed:
        while here.fits and (alone or here.is_one_alone or here.taken + needed > here.usable):
            here.changed.wait(_WAIT_S)
            alive()
        if not here.fits:  # other processes may share it, and come and go
            free, _ = torch.cuda.mem_get_info(device)
            here.usable = int(_USABLE * (free + torch.cuda.memory_reserved(device)))
        if needed > here.usable:
            raise OutOfMemory(
                f"a fit takes about {_gb(needed)} GB and this GPU has {_gb(here.usable)} to give; "
                "try a smaller recipe.batch, a smaller benchmark.samples_per_class or fewer "
                "zoo.tasks_per_member"
            )
        here.taken += needed
        here.fits += 1
        here.is_one_alone = alone
    try:
        yield
    finally:
        with here.changed:
            here.taken -= needed
            here.fits -= 1
            here.is_one_alone = False
            here.changed.notify_all()


def fits_under_way() -> int:
    """How many fits of this process are on GPUs."""
    return sum(device.fits for device in _devices.values())


def _device(device: str) -> _Device:
    with _devices_lock:
        if device not in _devices:
            _devices[device] = _Device(threading.Condition())
        return _devices[device]


def _footprint(
    network: MultiHead, spec: MemberSpec, image_shape: tuple[int, int, int]
) -> tuple[float, float]:
    """Of a sample that is learnt: bytes of all that is kept for the way back, and of the largest
    part of it."""
    recipe = spec.recipe
    key = (recipe.network, recipe.trunk, recipe.dropout, recipe.precision, image_shape)
    if key not in _footprints:
        kept: dict[int, float] = {parameter.data_ptr(): 0.0 for parameter in network.parameters()}
        narrow = 0.5 if recipe.precision == "bfloat16" else 1.0

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            size = storage.nbytes() * (narrow if tensor.is_floating_point() else 1.0)
            kept.setdefault(storage.data_ptr(), size)
            return tensor

        height, width, channels = image_shape
        batch = 2  # the least of which batch norm can take a variance
        images = torch.zeros(batch, channels, height, width)
        with GENERATORS, torch.random.fork_rng(devices=[]):
            twin = copy.deepcopy(network).train()
            kept |= {parameter.data_ptr(): 0.0 for parameter in twin.parameters()}
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                features = twin.trunk(images.contiguous(memory_format=torch.channels_last))
                # Kept alive, so that no address is given twice.
                logits = twin.logits(features, heads=torch.zeros(batch, dtype=torch.int64))
        del logits
        _footprints[key] = sum(kept.values()) / batch, max(kept.values()) / batch
    return _footprints[key]


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f}"
