import pytest

from zoo_ray.report.drawing import short_names

DIGITS = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["cat, dog", "a $, b"], ["cat, dog", "a $, b"]),
        (
            [DIGITS, f"{DIGITS} turned 10°", f"{DIGITS} turned 20°"],
            ["0, 1, 2, 3, … 6, 7, 8, 9", "… turned 10°", "… turned 20°"],
        ),
        (["a task of a long name, first", "b"], ["a task of a …name, first", "b"]),
        ([DIGITS], ["0, 1, 2, 3, … 6, 7, 8, 9"]),
        ([], []),
    ],
)
def test_names_are_shortened_where_they_do_not_differ(names, shown):
    assert short_names(names) == shown
