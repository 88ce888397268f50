"""Talking to a driver that may be restarting."""

import time
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from zoo_ray.cluster.job import DRIVER_AWAY_S


def ask(method: Any, *arguments: Any) -> Any:
    """Call the driver and wait for its answer; a driver that restarts is asked again, and one that
    was ended answers None: all is over."""
    away_since: float | None = None
    while True:
        asked = time.monotonic()
        try:
            return ray.get(method.remote(*arguments))
        except ActorDiedError:
            return None
        except ActorUnavailableError:
            now = time.monotonic()
            if away_since is None or now - asked > DRIVER_AWAY_S:
                away_since = now  # it was there until now: an answer may be hours in coming
            if now - away_since > DRIVER_AWAY_S:
                raise
            time.sleep(0.5)
