"""Numbers of things, for people."""


def counted(number: float, noun: str) -> str:
    """`1 CPU`, `0.5 CPUs`, `1,200 members`: nouns that take an s."""
    text = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{text} {noun}{'' if number == 1 else 's'}"
