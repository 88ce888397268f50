"""Bring a zoo as far as the store's members take it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from zoo_ray.errors import UserError
from zoo_ray.store import CorruptMember, Store, StoredPredictions
from zoo_ray.task import Predictions
from zoo_ray.zoo.growth import Growth

log = logging.getLogger("zoo_ray")


@dataclass
class Tally:
    """Where a zoo's members came from.

    Attributes:
        call: names the command that counts.
        ours: digests of members that this command published.
        others: of those that were there, or came from others.
        hardware: what they were fitted on; of two kinds, bits differ.
    """

    call: str
    ours: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    hardware: set[str] = field(default_factory=set)

    def count(self, digest: str, stored: StoredPredictions) -> None:
        """Count a member, once for all zoos that have it."""
        (self.ours if stored.call == self.call else self.others).add(digest)
        self.hardware.add(stored.hardware)
        if len(self.hardware) == 2:
            log.warning(
                "members were fitted on different hardware or versions of torch (%s): another "
                "machine will not give the same bits",
                " and ".join(sorted(self.hardware)),
            )
            self.hardware.add("")  # once is enough


def not_shared(store: Store) -> str:
    """What to say where a member that a worker published is not to be found."""
    return (
        f"store {store.shown}: a member that a worker published cannot be read; all nodes must "
        "see the same store: give a shared folder with --store"
    )


class Taker(Protocol):
    """What members can be delivered to: a zoo, or a driver's desk."""

    def deliver(
        self, digest: str, predictions: Sequence[Predictions], *, predictions_sha256: str
    ) -> None:
        """See `Growth.deliver`."""


def fold(taker: Taker, store: Store, digest: str, stored: StoredPredictions) -> None:
    """Fold a stored member into a zoo.

    Raises:
        CorruptMember: it does not fit its tasks.
    """
    try:
        taker.deliver(digest, stored.predictions, predictions_sha256=stored.sha256)
    except ValueError as error:
        message = f"{store.shown}/members/{digest}: {error}"
        raise CorruptMember(message, pointer=stored.pointer) from None


def drop(store: Store, digest: str, corrupt: CorruptMember) -> None:
    """Name a corrupt member in the log, and make it missing.

    Raises:
        UserError: the store cannot be written.
    """
    log.warning("store: %s; the member is treated as missing", corrupt)
    store.drop_member(digest, seen=corrupt.pointer)


def damaged(corrupt: CorruptMember) -> UserError:
    """The error that ends a command which cannot do without a corrupt member."""
    return UserError(f"{corrupt}; verify --repair, then the same command fits it again")


def predictions_of(store: Store, digest: str) -> StoredPredictions:
    """Read a member that was there before.

    Raises:
        UserError: it is missing, or damaged, since.
    """
    try:
        stored = store.read_predictions(digest)
    except CorruptMember as error:
        raise damaged(error) from None
    if stored is None:
        raise UserError(not_shared(store))
    return stored


def deliver_stored(growth: Growth, store: Store, digest: str, *, tally: Tally) -> bool:
    """Read a member, fold it in and count it; returns whether it was there.

    A corrupt member is named in the log and treated as missing.

    Raises:
        UserError: the store cannot be read.
    """
    try:
        stored = store.read_predictions(digest)
        if stored is None:
            return False
        fold(growth, store, digest, stored)
    except CorruptMember as error:
        drop(store, digest, error)
        return False
    tally.count(digest, stored)
    return True


def replay(growth: Growth, store: Store, *, tally: Tally) -> None:
    """Fold in every wanted member that the store holds."""
    missing: set[str] = set()
    while new := [w.spec.digest for w in growth.wanted() if w.spec.digest not in missing]:
        missing.update(d for d in new if not deliver_stored(growth, store, d, tally=tally))
