"""What trials try: every combination, or samples that are a function of seed and number."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from zoo_ray.keys import unit_interval

Values = Mapping[str, Any]
"""Values of a trial, by dotted keys of the configuration."""


Kind = Literal["choice", "randint", "uniform", "loguniform"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Dimension(NamedTuple):
    """The values that one key may take.

    Attributes:
        kind: `choice` of some values; or numbers between two: `randint` (whole, without the
            second), `uniform`, `loguniform`.
        values: the values, or the two numbers.
    """

    kind: Kind
    values: tuple[Any, ...]


def value_text(value: Any) -> str:
    """A value as tables and figures show it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def ends(dimension: Dimension) -> list[Any]:
    """Values that are allowed if all are: each choice, the least and the most."""
    if dimension.kind == "randint":
        return [dimension.values[0], dimension.values[1] - 1]
    return list(dimension.values)


def grid_values(space: dict[str, Dimension], *, number: int) -> dict[str, Any]:
    """The combination of choices of a number; the last key varies first."""
    values = {}
    for key in reversed(space):
        choices = space[key].values
        number, place = divmod(number, len(choices))
        values[key] = choices[place]
    return {key: values[key] for key in space}


def sample(space: Mapping[str, Dimension], *, seed: int, number: int) -> dict[str, Any]:
    """The values of a random trial.

    Args:
        space: what each key may be.
        seed: of the search.
        number: of the trial. Those of lower numbers do not matter, so a search can be lengthened.
    """
    return {
        key: _at(dimension, unit_interval("sample", seed, number, key))
        for key, dimension in space.items()
    }


def _at(dimension: Dimension, place: float) -> Any:
    """The value at a place between 0 and 1."""
    if dimension.kind == "choice":
        return dimension.values[int(place * len(dimension.values))]
    low, high = dimension.values
    if dimension.kind == "randint":
        return low + int(place * (high - low))
    if dimension.kind == "uniform":
        return low + place * (high - low)
    return math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
