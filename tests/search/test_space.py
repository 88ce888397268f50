"""What trials try."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zoo_ray.search.space import Dimension, ends, grid_values, sample

SPACE = {
    "a": Dimension("choice", ("x", "y", "z")),
    "b": Dimension("randint", (2, 5)),
    "c": Dimension("uniform", (-1.0, 1.0)),
    "d": Dimension("loguniform", (1e-4, 1e-1)),
}


@given(st.integers(0, 2**63 - 1), st.integers(0, 9999))
def test_samples_are_within_their_ends_and_depend_on_their_numbers_alone(seed, number):
    values = sample(SPACE, seed=seed, number=number)
    assert values == sample(SPACE, seed=seed, number=number)
    assert values["a"] in "xyz"
    assert values["b"] in (2, 3, 4)
    assert -1 <= values["c"] < 1
    assert 1e-4 <= values["d"] < 1e-1
    without = {key: SPACE[key] for key in "bd"}
    assert sample(without, seed=seed, number=number) == {key: values[key] for key in "bd"}


def test_samples_are_spread_as_asked():
    samples = [sample(SPACE, seed=0, number=number) for number in range(3000)]
    for choice in "xyz":
        assert abs(sum(values["a"] == choice for values in samples) - 1000) < 100
    for whole in (2, 3, 4):
        assert abs(sum(values["b"] == whole for values in samples) - 1000) < 100
    assert abs(np.mean([values["c"] for values in samples])) < 0.05
    assert abs(np.mean([np.log10(values["d"]) for values in samples]) + 2.5) < 0.05


def test_a_grid_counts_with_its_last_key_first():
    space = {"a": SPACE["a"], "b": Dimension("choice", (1, 2))}
    values = [tuple(grid_values(space, number=number).values()) for number in range(6)]
    assert values == [(a, b) for a in "xyz" for b in (1, 2)]


def test_ends_are_values_that_occur():
    assert ends(SPACE["b"]) == [2, 4]
    assert ends(SPACE["a"]) == ["x", "y", "z"]
