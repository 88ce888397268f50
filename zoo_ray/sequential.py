"""Grow a zoo in this process, one member after the other: no Ray, and the oracle for Ray."""

import time
from collections.abc import Callable, Sequence

from zoo_ray.errors import UserError
from zoo_ray.members.fit import FitFailed, fit
from zoo_ray.members.member import FitProgress
from zoo_ray.progress import FitState, Grown, Progress, Work
from zoo_ray.replay import deliver, read_stored
from zoo_ray.store import Store
from zoo_ray.task import Task
from zoo_ray.zoo.growth import Growth, Wanted


def grow_here(
    *,
    growth: Growth,
    store: Store,
    tasks: Sequence[Task],
    device: str,
    on_progress: Callable[[Progress], None],
) -> Grown:
    """Fit whatever the zoo wants and the store does not hold, until the zoo is complete.

    Args:
        growth: the zoo, brought as far as one likes; complete afterwards.
        store: where members are published, and read from.
        tasks: the stream.
        device: a torch device.
        on_progress: called about twice a second.

    Raises:
        UserError: a fit failed, or the store cannot be written.
    """
    work = Work(growth)
    fitted, first_fit = 0, None
    while not growth.finished:
        wanted = growth.wanted()[0]
        digest = wanted.spec.digest
        if deliver(growth, store, digest, read_stored(store, digest)):
            continue
        first_fit = first_fit or time.time()

        def report(
            state: FitProgress | None, wanted: Wanted = wanted, fitted: int = fitted
        ) -> None:
            fits = (FitState.of(wanted, growth, worker="here", progress=state),)
            on_progress(work.progress(fitted=fitted, fits=fits))

        report(None)
        try:
            member = fit(
                spec=wanted.spec,
                tasks=[tasks[position] for position in wanted.tasks],
                device=device,
                on_progress=report,
            )
        except FitFailed as error:
            raise UserError(f"{wanted.name}: {error}") from None
        store.publish_member(wanted.spec, member)
        fitted += 1
        if not deliver(growth, store, digest, read_stored(store, digest)):
            raise UserError(
                f"store {store.address}: {wanted.name} was written and cannot be read again; "
                "check the disk, or give another --store"
            )
    on_progress(work.progress(fitted=fitted, fits=()))
    return Grown(fitted=fitted, first_fit=first_fit)
