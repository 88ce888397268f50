"""Fit a member with its store at hand: a fit cut short, here or elsewhere, goes on from there."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from zoo_ray.errors import UserError
from zoo_ray.members.fit import Misfit, fit
from zoo_ray.members.member import Checkpoint, FitProgress, Member
from zoo_ray.members.spec import MemberSpec
from zoo_ray.store import Store
from zoo_ray.task import Task

log = logging.getLogger("zoo_ray")


def fit_from_store(
    *,
    spec: MemberSpec,
    tasks: Sequence[Task],
    store: Store,
    device: str,
    checkpoint_s: float,
    on_progress: Callable[[FitProgress], None],
) -> Member:
    """Fit a member, from the checkpoint that the store holds of it if there is one.

    The bits are the same either way. A checkpoint that cannot be used, or not be saved, is named
    in the log and done without. Publishing the member is left to the caller.

    Args:
        spec: what to fit.
        tasks: the tasks of the spec, in its order.
        store: where checkpoints are read from and saved.
        device: a torch device.
        checkpoint_s: a checkpoint is saved each time the fit has gone on for so many seconds.
        on_progress: called about twice a second.

    Raises:
        FitFailed: as `fit`.
        CutShort: as `fit`; the store has a checkpoint then, if it could be saved.
        UserError: the store cannot be read.
        ValueError: as `fit`, but for checkpoints.
    """
    name = f"the checkpoint of member {spec.digest[:12]}"

    def save(checkpoint: Checkpoint) -> None:
        try:
            store.write_checkpoint(spec.digest, checkpoint)
        except UserError as error:
            log.warning("%s is not saved: %s", name, error)

    fit_on = partial(
        fit,
        spec=spec,
        tasks=tasks,
        device=device,
        on_progress=on_progress,
        checkpoint_s=checkpoint_s,
        on_checkpoint=save,
    )
    checkpoint = store.read_checkpoint(spec.digest)
    if checkpoint is not None:
        log.info("member %s goes on from step %d", spec.digest[:12], checkpoint.step)
        try:
            return fit_on(resume=checkpoint)
        except Misfit as error:
            log.warning("%s is not used: %s", name, error)
            store.drop_checkpoints(spec.digest)  # or it would hide new ones of fewer steps
    return fit_on()
