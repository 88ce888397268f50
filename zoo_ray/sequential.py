"""Grow a zoo in this process, one member after the other: no Ray, and the oracle for Ray."""

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from zoo_ray.claims import Claims
from zoo_ray.diary import Diary
from zoo_ray.errors import UserError
from zoo_ray.failures import FailedFit, SpecFailed, record_failure
from zoo_ray.fitting import fit_from_store
from zoo_ray.members.member import FitProgress
from zoo_ray.progress import FitState, Progress, Work
from zoo_ray.replay import Tally, deliver_stored
from zoo_ray.run_tables import RunTablesWriter
from zoo_ray.store import Store
from zoo_ray.task import Task
from zoo_ray.timeline import TimelineWriter
from zoo_ray.zoo.growth import Growth, Wanted


def grow_here(
    *,
    folder: str,
    growth: Growth,
    store: Store,
    tasks: Sequence[Task],
    device: str,
    checkpoint_s: float,
    tally: Tally,
    on_progress: Callable[[Progress], None],
    failed: Mapping[str, str] = MappingProxyType({}),
) -> Progress:
    """Fit whatever the zoo wants and the store does not hold, until the zoo has ended.

    Args:
        folder: of the run in the store.
        growth: the zoo, brought as far as one likes; ended afterwards.
        store: where members are published, and read from.
        tasks: the stream.
        device: a torch device.
        checkpoint_s: a fit leaves a checkpoint in the store each time it has gone on for so many
            seconds.
        tally: counts the members.
        on_progress: called about twice a second.
        failed: why specs cannot be fitted, by digest, as far as that is known.

    Returns:
        The last progress.

    Raises:
        SpecFailed: a fit failed.
        UserError: the store cannot be written.
    """
    work = Work(growth)
    claims = Claims(store, folder=folder)
    diary = Diary()
    timeline = TimelineWriter(diary, store, folder=folder, workers=1)
    tables = RunTablesWriter(store, folder.partition("/")[2])
    first_fit: float | None = None
    names = {task.digest: task.name for task in growth.tasks}

    def show(*fits: FitState) -> Progress:
        progress = work.progress(fitted=len(tally.ours), first_fit=first_fit, fits=fits)
        on_progress(progress)
        return progress

    while not growth.ended:
        if tables.is_due(growth):
            tables.write(growth.episodes, growth.tasks)
        wanted = growth.wanted()[0]
        digest = wanted.spec.digest
        if deliver_stored(growth, store, digest, tally=tally):
            continue
        if digest in failed:
            raise SpecFailed(failed[digest], digest=digest)
        if claims.are_due(len(growth.certain)):
            claims.make(growth.certain)
        first_fit = first_fit or time.time()

        def report(progress: FitProgress | None, wanted: Wanted = wanted) -> None:
            fit = FitState.of(wanted, names=names, certain=True, worker="here", progress=progress)
            show(fit)

        report(None)
        diary.begin(0, digest, certain=True)
        try:
            member = fit_from_store(
                spec=wanted.spec,
                tasks=[tasks[position] for position in wanted.tasks],
                store=store,
                device=device,
                checkpoint_s=checkpoint_s,
                on_progress=report,
            )
        except UserError:
            raise
        except Exception as error:  # in a network, say
            diary.end(0, "failed")
            timeline.write()
            why = FailedFit.of(error)
            line = record_failure(store, folder=folder, wanted=wanted, failed=why)
            raise SpecFailed(line, digest=digest) from error
        store.publish_member(wanted.spec, member, call=tally.call)
        diary.end(0, "published")
        if timeline.is_due():
            timeline.write()
        if not deliver_stored(growth, store, digest, tally=tally):
            raise UserError(
                f"store {store.shown}: {wanted.name} was written and cannot be read again; "
                "check the disk, or give another --store"
            )
    timeline.write()
    return show()
