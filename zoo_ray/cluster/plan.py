"""How many workers, and what each holds: a pure function of what is asked for and what is free."""

import os
from dataclasses import dataclass
from pathlib import Path

from zoo_ray.config import WorkersConfig
from zoo_ray.errors import UserError


@dataclass(frozen=True)
class Offer:
    """What a machine or a cluster has to give.

    Attributes:
        where: what messages call it.
        cpus, gpus: free now.
        max_cpus, max_gpus: in all, with what others hold and what an autoscaler can launch.
    """

    where: str
    cpus: float
    gpus: float
    max_cpus: float
    max_gpus: float


@dataclass(frozen=True)
class WorkerPlan:
    """A worker group.

    Attributes:
        count: workers; 0: this process fits.
        cpus, gpus: of each worker.
    """

    count: int
    cpus: float
    gpus: float

    @property
    def device(self) -> str:
        """The torch device that a worker fits on."""
        return "cuda" if self.gpus else "cpu"


def this_machine() -> Offer:
    """What this machine has, found without starting Ray or importing torch."""
    cpus = float(len(os.sched_getaffinity(0)))
    gpus = float(_visible_gpus())
    return Offer(where="this machine", cpus=cpus, gpus=gpus, max_cpus=cpus, max_gpus=gpus)


def plan_workers(config: WorkersConfig, *, threads: int, members: int, offer: Offer) -> WorkerPlan:
    """Resolve `auto`, and refuse what can never be had.

    Args:
        config: what is asked for.
        threads: of a fit, which is what `cpus: auto` gives a worker.
        members: of the zoo; more workers than members would idle.
        offer: what there is.

    Raises:
        UserError: more is asked for than the cluster has or can launch.
    """
    cpus = float(threads) if config.cpus == "auto" else config.cpus
    gpus = config.gpus if config.gpus != "auto" else 1.0 if offer.gpus >= 1 else 0.0
    if config.count == "auto":
        rooms = [offer.gpus / gpus] if gpus else []
        rooms += [offer.cpus / cpus] if cpus else []
        # All may be taken for now; a worker then waits for the first to be free.
        count = max(1, min(members, int(min(rooms, default=1))))
    else:
        count = config.count
    # In this process there is one worker, which needs a GPU if it was asked for but no CPUs.
    needs = {"gpus": (gpus, offer.max_gpus), "cpus": (cpus if count else 0, offer.max_cpus)}
    for resource, (each, most) in needs.items():
        if max(count, 1) * each > most:
            raise UserError(
                f"workers.{resource} = {each:g} for workers.count = {count}: "
                f"{max(count, 1) * each:g} {resource.upper()[:-1]}s are asked for, and "
                f"{offer.where} has or can launch {most:g}; ask for less, or for auto"
            )
    return WorkerPlan(count=count, cpus=cpus, gpus=gpus)


def _visible_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in {"", "-1"}])
    try:
        return len(list(Path("/proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        return 0
