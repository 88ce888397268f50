"""The time line of the workers: who fitted what and when, and for what good."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from zoo_ray.counts import counted
from zoo_ray.diary import FitTime
from zoo_ray.report.drawing import GRID, INK, MUTED, PAPER, Drawing, new_axes
from zoo_ray.zoo.boosting import Floats

CERTAIN, USED, UNUSED, CUT_SHORT = "certain", "early and used", "early and unused", "cut short"
_COLOURS = {CERTAIN: "#3b6ea5", USED: "#8fbde3", UNUSED: "#e08a3c", CUT_SHORT: MUTED}
_INKS = {CERTAIN: "white", USED: "#1b2430", UNUSED: "#1b2430", CUT_SHORT: "white"}
_MOST_ROWS = 64
_MOST_BARS = 4000
_BINS = 240
_LABELLED = 0.025  # of the width, at which a bar holds a number
_UNITS = ((3 * 3600, 3600, "hours"), (180, 60, "minutes"), (0, 1, "seconds"))


class _Session(NamedTuple):
    """A session's place in the drawing, where sessions follow one another without a pause."""

    begin: float
    end: float
    workers: int


class Timeline(NamedTuple):
    """Times of fits, ready to be drawn.

    Attributes:
        fits: by session, in order.
        kinds: what each was for.
        begins, ends: seconds from the first fit's begin, sessions one after the other.
        sessions: in order.
    """

    fits: Sequence[FitTime]
    kinds: Sequence[str]
    begins: Floats
    ends: Floats
    sessions: Sequence[_Session]

    @property
    def workers(self) -> int:
        """How many rows there are."""
        return max(session.workers for session in self.sessions)

    @property
    def span(self) -> float:
        """Seconds that the sessions took in all."""
        return self.sessions[-1].end

    def seconds(self, kind: str) -> float:
        """Workers' seconds on fits of a kind."""
        return float((self.ends - self.begins)[self.of(kind)].sum())

    def of(self, kind: str) -> npt.NDArray[np.bool_]:
        """Which fits are of a kind."""
        return np.array([each == kind for each in self.kinds], dtype=bool)

    def shares(self) -> dict[str, float]:
        """Shares of the workers' time, by kind and `idle`."""
        whole = sum((each.end - each.begin) * each.workers for each in self.sessions) or 1.0
        found = {kind: self.seconds(kind) / whole for kind in _COLOURS}
        return found | {"idle": max(1 - sum(found.values()), 0.0)}


def timeline_of(fits: Sequence[FitTime], *, used: Collection[str]) -> Timeline:
    """Lay out the times of fits, one at least.

    Args:
        fits: as the store holds them.
        used: digests of the members that came to be wanted.
    """
    by_session: dict[str, list[FitTime]] = {}
    for fit in fits:
        by_session.setdefault(fit.session, []).append(fit)
    groups = sorted(by_session.values(), key=lambda group: min(fit.begin for fit in group))
    sessions: list[_Session] = []
    shifts: list[float] = []
    ordered: list[FitTime] = []
    end = 0.0
    for group in groups:
        first = min(fit.begin for fit in group)
        begin, end = end, end + max(fit.end for fit in group) - first
        sessions.append(_Session(begin, end, group[0].workers))
        ordered += sorted(group, key=lambda fit: (fit.begin, fit.worker))
        shifts += [begin - first] * len(group)
    return Timeline(
        fits=ordered,
        kinds=[_kind(fit, used) for fit in ordered],
        begins=np.array([fit.begin for fit in ordered]) + shifts,
        ends=np.array([fit.end for fit in ordered]) + shifts,
        sessions=sessions,
    )


def _kind(fit: FitTime, used: Collection[str]) -> str:
    if fit.ending in ("lost", "failed", "open"):
        return CUT_SHORT
    if fit.certain:
        return CERTAIN
    return USED if fit.digest in used else UNUSED


def timeline_drawing(
    line: Timeline, *, name: str = "timeline", episodes: Mapping[str, int] | None = None
) -> Drawing:
    """A row for each worker, coloured by what its fits were for; many workers or fits as areas.

    Args:
        line: what to draw.
        name: of the files.
        episodes: the members' episodes by digest, shown on bars that are long enough.
    """
    in_rows = line.workers <= _MOST_ROWS and len(line.fits) <= _MOST_BARS

    def draw() -> Figure:
        height = min(1.5 + (0.34 if line.workers <= 16 else 0.16) * line.workers, 12)
        figure, axes = new_axes((8, height if in_rows else 4))
        size, unit = next((size, unit) for least, size, unit in _UNITS if line.span >= least)
        if in_rows:
            _draw_rows(axes, line, size, episodes or {})
        else:
            _draw_areas(axes, line, size)
        for session in line.sessions[:-1]:
            axes.axvline(session.end / size, color=INK, lw=1, ls=(0, (2, 2)))
        axes.set_xlim(0, max(line.span, 1e-3) / size)
        axes.set_xlabel(f"{unit} from the first fit on")
        shown = [kind for kind in _COLOURS if kind in line.kinds]
        axes.legend(
            handles=[Patch(color=_COLOURS[kind], label=kind) for kind in shown]
            + [Patch(color=GRID, label="idle")],
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(shown) + 1,
            frameon=False,
            borderaxespad=0.2,
            handlelength=1.2,
            columnspacing=1.4,
        )
        return figure

    several = len(line.sessions)
    caption = "How many workers fitted what, over time."
    if in_rows:
        numbers = "; numbers are episodes" if episodes else ""
        caption = f"A row is a worker, a bar the fit of a member{numbers}."
    if {USED, UNUSED} & set(line.kinds):
        caption += (
            " Early: fitted before it was certain that the zoo would want the member; what is "
            "unused does not change the zoo."
        )
    if CUT_SHORT in line.kinds:
        caption += " Cut short: the fit failed, or its worker or the command ended."
    if several > 1:
        caption += " At a dashed line the work was stopped, and went on later."
    return Drawing(
        name,
        "Time line of the workers",
        f"{counted(line.workers, 'worker')}, {counted(len(line.fits), 'fit')}, "
        f"{_duration(line.span)} in {counted(several, 'session')}. Of the workers' time: "
        + ", ".join(
            f"{_percent(share)} {kind}"
            for kind, share in line.shares().items()
            if kind in line.kinds or kind == "idle"
        )
        + ".",
        caption,
        draw,
    )


def timeline_rows(line: Timeline) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the time line's table."""
    numbers = {name: n for n, name in enumerate(dict.fromkeys(f.session for f in line.fits), 1)}
    header = ("session", "worker", "begin_utc_s", "end_utc_s", "kind", "ending", "digest")
    return header, [
        (
            str(numbers[fit.session]),
            str(fit.worker),
            f"{fit.begin:.3f}",
            f"{fit.end:.3f}",
            kind,
            fit.ending,
            fit.digest,
        )
        for fit, kind in zip(line.fits, line.kinds, strict=True)
    ]


def _draw_rows(axes: Axes, line: Timeline, size: float, episodes: Mapping[str, int]) -> None:
    for begin, end, count in line.sessions:
        width = [(end - begin) / size] * count
        axes.barh(range(count), width, left=begin / size, color=GRID, height=0.8)
    workers = np.array([fit.worker for fit in line.fits])
    lengths = line.ends - line.begins
    edge = 0.8 if len(line.fits) < 500 else 0.2
    for kind, colour in _COLOURS.items():
        of = line.of(kind)
        if of.any():
            axes.barh(
                workers[of],
                lengths[of] / size,
                left=line.begins[of] / size,
                color=colour,
                height=0.8,
                edgecolor=PAPER,
                linewidth=edge,
            )
    if line.workers <= 24:
        for number, (fit, kind) in enumerate(zip(line.fits, line.kinds, strict=True)):
            if fit.digest in episodes and lengths[number] >= _LABELLED * line.span:
                middle = (line.begins[number] + line.ends[number]) / 2 / size
                text = axes.text(middle, fit.worker, str(episodes[fit.digest]), color=_INKS[kind])
                text.set(ha="center", va="center", fontsize=7)
    axes.set_ylim(line.workers - 0.4, -0.6)
    if line.workers <= 16:
        axes.set_yticks(range(line.workers), [f"worker {rank}" for rank in range(line.workers)])
    else:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("worker")
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _draw_areas(axes: Axes, line: Timeline, size: float) -> None:
    edges = np.linspace(0, max(line.span, 1e-3), _BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    there = np.zeros(_BINS)
    for begin, end, count in line.sessions:
        there[(middles >= begin) & (middles < end)] = count
    axes.fill_between(middles / size, there, color=GRID, lw=0, step="mid")
    kinds = [kind for kind in _COLOURS if kind in line.kinds]
    busy = []
    for kind in kinds:
        begins, ends = line.begins[line.of(kind)], line.ends[line.of(kind)]
        until = np.array([np.clip(edge - begins, 0, ends - begins).sum() for edge in edges])
        busy.append(np.diff(until) / np.diff(edges))
    axes.stackplot(middles / size, *busy, colors=[_COLOURS[kind] for kind in kinds], lw=0)
    axes.set_ylim(0, line.workers)
    axes.set_ylabel("workers")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _percent(share: float) -> str:
    return "less than 1%" if 0 < share < 0.01 else f"{100 * share:.0f}%"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{seconds:.1f} s"
