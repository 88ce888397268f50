"""How many workers, and what each holds: a pure function of what is asked for and what is free."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo_ray.config import WorkersConfig
from zoo_ray.counts import counted
from zoo_ray.errors import UserError

# Each group has four processes of Ray's beside the entrypoint, of some hundred megabytes.
_GROUPS_TO_COME = 16


@dataclass(frozen=True)
class Offer:
    """What a machine or a cluster has to give.

    Attributes:
        where: what messages call it.
        cpus, gpus: free now, in all.
        nodes: CPUs and GPUs of each node, free or not: a worker does not spread over two.
        launchable_cpus, launchable_gpus: what an autoscaler may have running, in all; 0: none.
    """

    where: str
    cpus: float
    gpus: float
    nodes: tuple[tuple[float, float], ...]
    launchable_cpus: float = 0.0
    launchable_gpus: float = 0.0

    @property
    def max_cpus(self) -> float:
        """All CPUs there can be."""
        return max(sum(cpus for cpus, _ in self.nodes), self.launchable_cpus)

    @property
    def max_gpus(self) -> float:
        """All GPUs there can be."""
        return max(sum(gpus for _, gpus in self.nodes), self.launchable_gpus)

    @property
    def to_come(self) -> tuple[float, float]:
        """CPUs and GPUs of all nodes that an autoscaler may still launch."""
        cpus, gpus = (sum(node[place] for node in self.nodes) for place in (0, 1))
        return max(self.launchable_cpus - cpus, 0.0), max(self.launchable_gpus - gpus, 0.0)


FITS_OF_A_GPU = 8
"""At once: on an H200, twice as many of the paper's networks, at batch 16, were fitted from 15%
slower to 27% faster, which differed from one try to the next."""


@dataclass(frozen=True)
class WorkerPlan:
    """A worker group.

    Attributes:
        count: workers; 0: this process fits.
        cpus, gpus: of each worker.
        fits: of each worker at once.
    """

    count: int
    cpus: float
    gpus: float
    fits: int = 1

    @property
    def at_once(self) -> int:
        """Fits at once, of all workers."""
        return self.count * self.fits

    @property
    def device(self) -> str:
        """The torch device that a worker fits on."""
        return "cuda" if self.gpus else "cpu"


def this_machine() -> Offer:
    """What this machine has, found without starting Ray or importing torch."""
    cpus, gpus = float(usable_cpus()), float(_visible_gpus())
    return Offer(where="this machine", cpus=cpus, gpus=gpus, nodes=((cpus, gpus),))


def usable_cpus() -> int:
    """CPUs that this process may use: those it is bound to, within its container's quota."""
    bound = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return max(1, min(bound, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or no quota ("max")
        return bound


def plan_workers(
    config: WorkersConfig, *, threads: int, members: int, offer: Offer, one_at_a_time: bool = False
) -> WorkerPlan:
    """Resolve `auto`, and refuse what can never be had.

    Args:
        config: what is asked for.
        threads: of a fit, which is what `cpus: auto` gives a worker.
        members: of the zoo; more workers than members would idle.
        offer: what there is.
        one_at_a_time: whether a fit has a GPU to itself.

    Raises:
        UserError: more is asked for than the cluster has or can launch.
    """
    some_gpu = offer.gpus >= 1 or offer.to_come[1] >= 1
    gpus = config.gpus if config.gpus != "auto" else 1.0 if some_gpu else 0.0
    # A fit on a GPU does little on the CPU.
    busy = threads if gpus or config.fits == "auto" else threads * config.fits
    cpus = float(busy) if config.cpus == "auto" else config.cpus
    if config.count == 0:
        cpus = 0.0  # this process has its CPUs already
    elif cpus == gpus == 0:
        raise UserError("workers.cpus = 0: a worker without a GPU needs some; try auto")
    room = sum(_room(node, cpus=cpus, gpus=gpus) for node in offer.nodes)
    if config.count == "auto":
        free = _room((offer.cpus, offer.gpus), cpus=cpus, gpus=gpus)
        launched = _room(offer.to_come, cpus=cpus, gpus=gpus)
        # All may be taken for now: one worker then waits for the first to be free.
        count = max(1, min(members, min(room, free) + launched))
    else:
        count = config.count
    can_launch = (
        max(count, 1) * gpus <= offer.launchable_gpus
        and max(count, 1) * cpus <= offer.launchable_cpus
    )
    if room < max(count, 1) and not can_launch:
        short_of_gpus = gpus and max(count, 1) > sum(
            _room(node, cpus=0, gpus=gpus) for node in offer.nodes
        )
        key, each, most = (
            ("gpus", gpus, offer.max_gpus) if short_of_gpus else ("cpus", cpus, offer.max_cpus)
        )
        raise UserError(
            f"workers.{key} = {each:g}, for workers.count = {count}: {offer.where} has or can "
            f"launch {counted(most, key.upper()[:-1])} on {counted(len(offer.nodes), 'node')}, "
            f"room for {counted(room, 'such worker')}; ask for less, or for auto"
        )
    if config.fits != "auto":
        fits = config.fits
    elif gpus < 1 or one_at_a_time:
        fits = 1
    else:  # rather a fit on each of many GPUs than many on few
        fits = max(1, min(FITS_OF_A_GPU, -(-members // max(count, 1))))
    return WorkerPlan(count=count, cpus=cpus, gpus=gpus, fits=fits if count else 1)


def split_over_nodes(workers: WorkerPlan, *, nodes: Sequence[tuple[float, float]]) -> list[int]:
    """How many workers each group has, the largest first: a node's workers are a group.

    Those for whom no node is there yet are small groups, each of which begins when it has a place:
    nobody knows the nodes to come, nor whether all will.

    Args:
        workers: who is to be split.
        nodes: CPUs and GPUs of each.
    """
    rooms = (room_on(node, workers) for node in nodes)
    sizes, left = [], workers.count
    for room in sorted(rooms, reverse=True):
        sizes.append(min(room, left))
        left -= sizes[-1]
    small = math.ceil(left / _GROUPS_TO_COME)
    to_come = [min(small, left - begun) for begun in range(0, left, small or 1)]
    return [size for size in [*sizes, *to_come] if size]


def room_on(node: tuple[float, float], workers: WorkerPlan) -> int:
    """How many of these workers a node of so many CPUs and GPUs holds."""
    return _room(node, cpus=workers.cpus, gpus=workers.gpus)


def _room(node: tuple[float, float], *, cpus: float, gpus: float) -> int:
    """How many workers a node holds. Fractions of a GPU are not put together from two GPUs."""
    rooms = []
    if cpus:
        rooms.append(int(node[0] / cpus))
    if gpus:
        rooms.append(int(node[1]) * int(1 / gpus) if gpus < 1 else int(node[1] / gpus))
    return min(rooms, default=1)


def _visible_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in {"", "-1"}])
    try:
        return len(list(Path("/proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        return 0
