"""Which worker fitted what and when, as a table of a run's folder."""

import math
from collections.abc import Sequence
from typing import get_args, get_type_hints

from zoo_ray.diary import Ending, FitTime
from zoo_ray.store.payloads import CorruptPayload, table_from_bytes, table_to_bytes

_KINDS = {
    key: kind if isinstance(kind, type) else str for key, kind in get_type_hints(FitTime).items()
}
"""What an `Ending` is, too, is text."""


def timeline_to_bytes(fits: Sequence[FitTime]) -> bytes:
    """A table of fits, one at least."""
    return table_to_bytes(
        dict(zip(FitTime._fields, map(list, zip(*fits, strict=True)), strict=True))
    )


def timeline_from_bytes(payload: bytes) -> list[FitTime]:
    """What `timeline_to_bytes` wrote.

    Raises:
        CorruptPayload: it is not.
    """
    columns = table_from_bytes(payload)
    if not columns.keys() >= _KINDS.keys():
        raise CorruptPayload("not a time line")
    fits = [FitTime(*row) for row in zip(*(columns[key] for key in _KINDS), strict=True)]
    for number, fit in enumerate(fits, start=1):
        typed = all(type(value) is kind for value, kind in zip(fit, _KINDS.values(), strict=True))
        if not typed or not _makes_sense(fit):
            raise CorruptPayload(f"row {number} is no time of a fit")
    return fits


def _makes_sense(fit: FitTime) -> bool:
    return (
        0 <= fit.worker < fit.workers
        and 0 <= fit.begin <= fit.end
        and math.isfinite(fit.end)
        and fit.ending in get_args(Ending)
    )
