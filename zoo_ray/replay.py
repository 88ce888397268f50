"""Bring a zoo as far as the store's members take it."""

import logging

from zoo_ray.store import CorruptMember, Store, StoredPredictions
from zoo_ray.zoo.growth import Growth

log = logging.getLogger("zoo_ray")


def read_stored(store: Store, digest: str) -> StoredPredictions | None:
    """A finished member's predictions; a corrupt member is named in the log and treated as missing.

    Raises:
        UserError: the store cannot be read.
    """
    try:
        return store.read_predictions(digest)
    except CorruptMember as error:
        _drop(store, digest, error)
        return None


def deliver(growth: Growth, store: Store, digest: str, stored: StoredPredictions | None) -> bool:
    """Fold a stored member into a zoo; returns whether it was there and fits its tasks."""
    if stored is None:
        return False
    try:
        growth.deliver(digest, stored.predictions, predictions_sha256=stored.sha256)
    except ValueError as error:
        _drop(store, digest, f"{store.address}/members/{digest}: {error}")
        return False
    return True


def replay(growth: Growth, store: Store) -> int:
    """Deliver every wanted member that the store holds; returns how many there were."""
    read = 0
    missing: set[str] = set()
    while new := [w.spec.digest for w in growth.wanted() if w.spec.digest not in missing]:
        for digest in new:
            if deliver(growth, store, digest, read_stored(store, digest)):
                read += 1
            else:
                missing.add(digest)
    return read


def _drop(store: Store, digest: str, error: object) -> None:
    log.warning("store: %s; the member is treated as missing", error)
    store.drop_member(digest)
