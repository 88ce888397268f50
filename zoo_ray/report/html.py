"""The parts of a report's page."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np

from zoo_ray.diary import FitTime
from zoo_ray.errors import UserError
from zoo_ray.outcomes import Spread
from zoo_ray.report.drawing import Drawing, themed
from zoo_ray.report.timeline import timeline_drawing, timeline_of, timeline_rows
from zoo_ray.zoo.boosting import Floats


def figure_section(drawing: Drawing, files: dict[str, bytes]) -> str:
    """A drawing with what it says; its files go to `files`."""
    png, svg = drawing.render()
    shown = themed(svg, name=drawing.name)
    files[f"{drawing.name}.png"], files[f"{drawing.name}.svg"] = png, svg.encode()
    return (
        f"<section><h2>{escape(drawing.title)}</h2>"
        f'<figure role="img" aria-label="{escape(drawing.text)}">{shown}</figure>'
        f"<p class=caption>{escape(drawing.text)} {escape(drawing.caption)}</p></section>"
    )


def timeline_section(
    read: Callable[[], list[FitTime]],
    files: dict[str, bytes],
    *,
    name: str,
    episodes: Mapping[str, int] | None,
    missing: str,
) -> str:
    """The time line of the workers, or why there is none.

    Args:
        read: gives the times, or raises a `UserError`.
        files: gets the drawing's files.
        name: of the drawing.
        episodes: of the members that came to be wanted, by digest; None: all were certain to be.
        missing: why there may be none.
    """
    try:
        fits = read()
    except UserError as error:
        missing, fits = str(error), []
    if not fits:
        return (
            "<section><h2>Time line of the workers</h2>"
            f"<p class=caption>There is none here: {escape(missing)}.</p></section>"
        )
    line = timeline_of(fits, used=episodes if episodes is not None else {f.digest for f in fits})
    files[f"{name}.csv"] = csv_bytes(*timeline_rows(line))
    return figure_section(timeline_drawing(line, name=name, episodes=episodes), files)


def cards(numbers: Mapping[str, str]) -> str:
    """Numbers that a reader sees first, by their names."""
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in numbers.items()
    )
    return f"<dl class=cards>{shown}</dl>"


def numbers(values: Floats) -> list[str]:
    """Numbers for a CSV file, exactly; none where there is none."""
    return ["" if value != value else repr(value) for value in values.tolist()]


def spread_cells(spread: Spread) -> list[str]:
    """Mean, standard deviation (none for one seed), and each seed's number, for a CSV file."""
    mean, sd = numbers(np.array([spread.mean, spread.sd], dtype=np.float64))
    return [mean, sd, "; ".join(numbers(np.array(spread.by_seed)))]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, named: int = 1) -> str:
    """A table whose first columns, so many of them, are names."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    # In a narrow page a cell is broken before its ±, not after.
    cells = (
        "".join(f"<td>{escape(cell).replace('± ', '±&nbsp;')}</td>" for cell in row) for row in rows
    )
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return (
        f"<div class=wide><table class=named{named}><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def csv_bytes(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """A CSV file."""
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue().encode()


STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --muted: #6b7280; --grid: #e5e7eb;
  --paper: #ffffff; --card: #f5f7fa; --shade: #1f24302e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --muted: #9aa3b2; --grid: #333a47;
  --paper: #14171d; --card: #1d222b; --shade: #e6e9ef3d; } }
@media print { :root { color-scheme: light; } section { break-inside: avoid; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .7rem;
  margin: 1rem 0; }
.cards div { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; }
dt { color: var(--muted); font-size: .85rem; }
dd { margin: 0; font-size: 1.35rem; font-weight: 600; }
figure { margin: 0; }
figure, .wide { overflow-x: auto; /* a shadow where there is more to the side */
  background: linear-gradient(to right, var(--paper) 40%, transparent) left / 2rem 100% local,
    linear-gradient(to left, var(--paper) 40%, transparent) right / 2rem 100% local,
    linear-gradient(to right, var(--shade), transparent) left / .7rem 100%,
    linear-gradient(to left, var(--shade), transparent) right / .7rem 100%;
  background-repeat: no-repeat; }
figure svg { width: 100%; min-width: 32rem; height: auto; max-height: 90vh; }
@media print { figure svg { min-width: 0; } figure, .wide { background: none; } }
.caption { color: var(--muted); font-size: .9rem; margin: .2rem 0 0; }
section > .wide:first-child { margin-top: 1.4rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--grid); }
th { color: var(--muted); font-weight: 500; font-size: .85rem; }
td:first-child, th:first-child, .named2 :is(td, th):nth-child(2) { text-align: left; }
td:first-child:not(.named2 *), .named2 td:nth-child(2) { min-width: 9rem; }
h2.part { font-size: 1.4rem; border-top: 1px solid var(--grid); padding-top: 1.6rem; }
pre { background: var(--card); border-radius: .5rem; padding: .8rem; overflow-x: auto;
  font-size: .8rem; }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""
