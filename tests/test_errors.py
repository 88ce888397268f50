from zoo_ray.errors import UserError


def test_an_error_is_one_printable_line():
    assert str(UserError("a\nb \x1b[31m \ud800 é 🦓\u2028c\n")) == r"a b \x1b[31m \ud800 é 🦓 c"


def test_a_long_error_keeps_what_is_wrong_and_what_to_try():
    message = str(UserError(f"store = {'x' * 100_000}: no such folder; try another"))
    assert len(message) < 1000
    assert message.startswith("store = xxx")
    assert message.endswith("no such folder; try another")
