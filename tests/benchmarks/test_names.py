import pytest

from zoo_ray.benchmarks.names import printable, task_name, unique


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat", "cat"),
        ("a\nb\r\n\tc", "a b c"),
        ("\x1b[31mred\x1b[0m", "[31mred [0m"),
        ("left\u202eright", "left right"),  # would turn the text around
        ("\ud800", ""),  # cannot be encoded
        ("été 猫", "été 猫"),
    ],
)
def test_names_are_printed_on_one_line(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_names_are_bounded() -> None:
    assert printable("x" * 10_000) == "x" * 57 + "..."
    assert printable("x" * 60) == "x" * 60
    assert len(printable("x" * 10_000_000, limit=5)) == 5


@pytest.mark.parametrize(
    ("classes", "name"),
    [
        (["cat"], "cat"),
        (["cat", "dog"], "cat, dog"),
        ([str(number) for number in range(100)], None),
        (["x" * 60], None),
        (["x" * 60, "y" * 60], None),
    ],
)
def test_a_task_is_called_by_its_classes(classes: list[str], name: str | None) -> None:
    shown = task_name(classes)
    assert len(shown) <= 48
    if name is not None:
        assert shown == name
    elif len(classes) > 1:
        assert shown.endswith(" more")


def test_a_long_task_name_counts_what_it_leaves_out() -> None:
    shown = task_name([f"class {number}" for number in range(20)])
    assert shown == "class 0, class 1, class 2, class 3 and 16 more"


def test_equal_names_get_numbers_and_earlier_ones_never_change() -> None:
    names = ["a", "b", "a", "a (2)", "a"]
    assert unique(names) == ["a", "b", "a (2)", "a (2) (2)", "a (3)"]
    for length in range(len(names)):
        assert unique(names[:length]) == unique(names)[:length]
