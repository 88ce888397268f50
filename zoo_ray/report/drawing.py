"""What a figure of ours is: drawn once, as SVG for a page, as PNG to keep, and in one style."""

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, takewhile
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from zoo_ray.zoo.boosting import Floats

INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
BLUE, RED = "#3b6ea5", "#c2410c"
PAPER = "#fffffe"  # that of the page, where white is white
# For scripts that the first font lacks, where one of them is installed.
_FALLBACKS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
    "Noto Emoji",  # Noto Color Emoji is made of pictures, which matplotlib does not draw
)
_INSTALLED = {font.name for font in font_manager.fontManager.ttflist}
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", *(name for name in _FALLBACKS if name in _INSTALLED)],
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign is one
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
# Colours of the page, which differ in the dark.
_THEMED = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)"}
MOST_LABELS = 20
"""Of lines, at their ends, but for a mean's: more would not fit."""
# Okabe & Ito 2008, for the colour-blind too, the one that is pale by day last; ink is their black.
_CONTENDERS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", INK, "#f0e442")
_MARKERS = "os^DvPX*"
SLANTED: dict[str, Any] = {"rotation": 50, "ha": "right", "rotation_mode": "anchor"}
_LONGEST = 24
_MOST_NUMBERS = 21  # in a row or column


@dataclass(frozen=True)
class Drawing:
    """A figure of a report.

    Attributes:
        name: of its files.
        title: above it.
        text: what it shows, in words: for those who do not see it.
        caption: how to read it.
        draw: draws it.
    """

    name: str
    title: str
    text: str
    caption: str
    draw: Callable[[], Figure]

    def render(self) -> tuple[bytes, str]:
        """As PNG, and as SVG whose text is text."""
        with self._drawn() as figure:
            svg = _saved(figure, format="svg", transparent=True, metadata={"Date": None})
            return _saved(figure, format="png", dpi=150), svg.decode()

    def png(self, *, of: str | None = None) -> bytes:
        """As PNG; with a title that names what it is of, for a file of its own."""
        with self._drawn() as figure:
            if of is not None:
                title = f"{of}: {self.title[0].lower()}{self.title[1:]}"
                figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
            return _saved(figure, format="png", dpi=150)

    @contextlib.contextmanager
    def _drawn(self) -> Iterator[Figure]:
        """The figure, and the style of all figures while it is saved.

        A character that no font here has is drawn as a box, without a warning for each.
        """
        # The salt keeps the ids of several drawings on one page apart.
        of_svg = {"svg.fonttype": "none", "svg.hashsalt": self.name}
        with mpl.rc_context(_STYLE | of_svg), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph \d+ .*missing from")
            yield self.draw()

    def _repr_png_(self) -> bytes:
        """As a notebook shows it."""
        return self.png()


def new_figure(size: tuple[float, float]) -> Figure:
    """A figure of so many inches, which a notebook's own plots know nothing of."""
    return Figure(figsize=size, layout="constrained")


def new_axes(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    figure = new_figure(size)
    return figure, figure.subplots()


def _saved(figure: Figure, **options: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, **options)
    return file.getvalue()


def themed(svg: str, *, name: str) -> str:
    """An SVG as part of a page: without its header, in the colours of the page, its ids begun with
    a name."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<image\b[^>]*?) id="[^"]*"', r"\1", svg)  # the same for the same pixels
    svg = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, variable in _THEMED.items():
        svg = svg.replace(colour, variable)
    return svg


class Look(NamedTuple):
    """Of a line: what tells it from others."""

    colour: Any
    marker: str = "o"


def in_order(count: int) -> list[Look]:
    """Looks of lines that have an order, such as tasks: from dark to light."""
    return [Look(colour) for colour in mpl.colormaps["viridis"](np.linspace(0.2, 0.88, count))]


def apart(count: int) -> list[Look]:
    """Looks of lines that have none, such as contenders: as unlike as can be."""
    few = count <= len(_CONTENDERS)
    colours = _CONTENDERS if few else [look.colour for look in in_order(count)]
    return [Look(c, m) for c, m, _ in zip(colours, cycle(_MARKERS), range(count), strict=False)]


def label_ends(
    axes: Axes, values: Sequence[float], labels: Sequence[str], looks: Sequence[Look]
) -> None:
    """Label lines at their right ends, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    order = sorted(range(len(values)), key=lambda i: (values[i], -i))
    gap = (high - low) / max(18, len(values) - 1)
    places = _spread([values[i] for i in order], gap=gap, low=low, high=high)
    for i, place in zip(order, places, strict=True):
        colour, marker = looks[i]
        leader = Line2D([1, 1.025, 1.04], [values[i], place, place], color=colour, lw=0.8)
        leader.set(marker=marker, markevery=[2], ms=6, clip_on=False)
        leader.set_transform(axes.get_yaxis_transform())
        axes.add_artist(leader)
        # The text is not in the line's colour, which may be hard to read by day or by night.
        axes.annotate(
            f"{labels[i]} · {values[i]:z.1f}",
            xy=(1.04, place),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            annotation_clip=False,
        )


def _spread(values: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Ascending values moved as little as possible (least squares) to be `gap` apart, from `low`
    to `high`, which is room enough."""
    # Isotonic regression of value - i * gap: pool neighbours that are out of order.
    pools: list[tuple[float, int]] = []
    for i, value in enumerate(values):
        mean, size = value - i * gap, 1
        while pools and pools[-1][0] > mean:
            before, before_size = pools.pop()
            mean = (mean * size + before * before_size) / (size + before_size)
            size += before_size
        pools.append((mean, size))
    highest = high - (len(values) - 1) * gap
    flat = [min(max(mean, low), highest) for mean, size in pools for _ in range(size)]
    return [mean + i * gap for i, mean in enumerate(flat)]


def short_names(names: Sequence[str]) -> list[str]:
    """Names as a figure shows them: long ones without what all begin with, or without a middle."""
    words = [name.split(" ") for name in names]
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))
    start = [column[0] for column in alike] if len(names) > 1 else []
    too_long = max(map(len, names), default=0) > _LONGEST
    left_out = len(start) if too_long and len(" ".join(start)) > _LONGEST // 2 else 0
    rests = [" ".join(each[left_out:]) for each in words]
    return [
        _cut(f"… {rest}" if rest and left_out else name)
        for name, rest in zip(names, rests, strict=True)
    ]


def _cut(name: str) -> str:
    half = _LONGEST // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}…{name[1 - half :]}"


def whole_ticks(episodes: int) -> list[int]:
    """Some whole numbers from 1 to that of the episodes."""
    step = max(1, -(-episodes // 12))
    return list(range(1, episodes + 1, step))


def whole_numbers(axis: Axis) -> None:
    """Ticks of an axis at whole numbers alone, were it at one alone."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def heat_map(
    axes: Axes,
    values: Floats,
    *,
    form: str,
    ends: tuple[float, float] | None = None,
    least: float = -np.inf,
) -> AxesImage:
    """A heat map, with its numbers where they are few.

    Args:
        form: of the numbers.
        ends: of the colours; None: those of the values.
        least: numbers below are not shown.
    """
    low, high = ends or (np.nanmin(values), np.nanmax(values))
    image = axes.imshow(values, cmap="Blues", aspect="auto", vmin=low, vmax=high)
    shown = np.where(values >= least, values, np.nan)
    write_numbers(axes, shown, form=form, dark=values > low + 0.6 * (high - low))
    return image


def write_numbers(axes: Axes, values: Floats, *, form: str, dark: npt.NDArray[np.bool_]) -> None:
    """Write a heat map's numbers into its cells, where they are few.

    Args:
        values: NaN: none is shown.
        form: of the numbers.
        dark: which cells are.
    """
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    if max(values.shape) <= _MOST_NUMBERS:
        for row, column in np.argwhere(~np.isnan(values)):
            # On the map's colours, by day and by night.
            ink = "white" if dark[row, column] else "#1b2430"
            text = form.format(values[row, column])
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=7)
