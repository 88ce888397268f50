import pytest

from zoo_ray.counts import counted


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0 CPUs"), (1, "1 CPU"), (1.0, "1 CPU"), (0.5, "0.5 CPUs"), (1200, "1,200 CPUs")],
)
def test_one_is_one(number, said):
    assert counted(number, "CPU") == said
