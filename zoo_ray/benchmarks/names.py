"""Names fit to be shown: on one line, printable, bounded, unique."""

from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path


def printable(text: str, *, limit: int = 60) -> str:
    """The text on one line, without control characters, in at most `limit` characters.

    Names come from files that anyone may have written: a class may be called by an escape
    sequence, or by a novel.
    """
    # Far more than is shown, and so little that cleaning it costs nothing.
    head = text[: 16 * limit]
    clean = " ".join("".join(c if c.isprintable() else " " for c in head).split())
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


def shown_path(path: Path | str) -> str:
    """A path as messages name it."""
    return printable(str(path), limit=400)


def listed(names: Iterable[str]) -> str:
    """Names as messages list them, or `none`."""
    return printable(", ".join(names), limit=200) or "none"


def task_name(classes: Sequence[str]) -> str:
    """`cat, dog`, or `cat, dog and 18 more` where all names would take more than 48 characters."""
    for shown in range(len(classes), 0, -1):
        more = f" and {len(classes) - shown} more" if shown < len(classes) else ""
        name = ", ".join(classes[:shown]) + more
        if len(name) <= 48:
            return name
    return printable(classes[0], limit=24) + more


def unique(names: Iterable[str]) -> list[str]:
    """The names, where a name that came before gets a number: `a, b, a (2)`.

    A name depends on the names before it alone, so a longer stream keeps those it has.
    """
    taken: set[str] = set()
    result = []
    for name in names:
        candidates = (name if number == 1 else f"{name} ({number})" for number in count(1))
        result.append(next(candidate for candidate in candidates if candidate not in taken))
        taken.add(result[-1])
    return result
