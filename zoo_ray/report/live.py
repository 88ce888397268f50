"""Progress while a zoo grows: bars on a terminal or below a notebook's cell, else lines."""

import contextlib
import time
from collections.abc import Callable, Sequence
from html import escape as as_html

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from zoo_ray.lines import comparison_status, run_line, search_status, with_time_left
from zoo_ray.progress import FitState, Progress, SearchProgress
from zoo_ray.search.config import SearchConfig
from zoo_ray.search.trials import Trials

_TELL_EVERY_S = 30.0


class Live:
    """Shows progress on a console. Use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._zoo = self._bars.add_task("[bold]zoo[/bold]", total=None, status="starting")
        self._fits: dict[str, TaskID] = {}
        self._told = (-1, time.monotonic())
        self._cell: Callable[[str], None] | None = None

    def __enter__(self) -> "Live":
        self._bars.start()
        if self._console.is_jupyter:
            with contextlib.suppress(ImportError):
                self._cell = _below_the_cell()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
        if self._cell is not None:
            self._cell("")

    def update_search(
        self, progress: SearchProgress, trials: Trials, *, config: SearchConfig
    ) -> None:
        """Show the present state of a search."""
        ended = len(trials.all) - len(trials.running)
        complete = [trial for trial in trials.all if trial.status == "complete"]
        sign = 1 if config.maximised else -1
        signed = max((sign * trial.score(config.metric) for trial in complete), default=None)
        best = None if signed is None else sign * signed
        status = search_status(progress, ended=ended, trials=config.trials, best=best)
        done = sum(trial.episodes for trial in trials.all)
        total = config.trials * config.most_episodes
        self._show_zoos(progress, status, what="search", done=done, total=total, told=ended)

    def update_comparison(self, progress: SearchProgress, asked: int) -> None:
        """Show the present state of a comparison, whose zoos have so many members if none are
        shared."""
        status, done = comparison_status(progress, asked=asked), progress.members_done
        self._show_zoos(progress, status, what="zoos", done=done, total=asked, told=0)

    def update(self, progress: Progress) -> None:
        """Show the present state of a run."""
        if not self._console.is_terminal:
            self._tell(progress.episodes_done, run_line(progress), share=progress.work_share)
            return
        accuracy = progress.test_accuracy
        status = f"episode {progress.episodes_done}/{progress.episodes}" + (
            "" if accuracy is None else f"  accuracy {100 * accuracy:.1f}%"
        )
        if progress.fits or progress.fitted:
            self._bars.update(self._zoo, total=1.0, completed=progress.work_share, status=status)
        else:
            self._bars.update(self._zoo, status=f"{status}  waiting for workers")
        self._show_fits(progress.fits)

    def _show_zoos(
        self, progress: SearchProgress, status: str, *, what: str, done: int, total: int, told: int
    ) -> None:
        """Show many zoos; a line is printed when `told` has grown."""
        if self._console.is_terminal:
            what = f"[bold]{what}[/bold]"
            self._bars.update(
                self._zoo, description=what, total=total, completed=done, status=status
            )
            self._show_fits(progress.fits)
            return
        share = done / total if total else 1.0
        line = with_time_left(status, share=share, since=progress.first_fit)
        self._tell(told, line, share=share)

    def _show_fits(self, fits: Sequence[FitState]) -> None:
        for gone in self._fits.keys() - {fit.digest for fit in fits}:
            self._bars.remove_task(self._fits.pop(gone))
        for fit in fits:
            if fit.digest not in self._fits:
                self._fits[fit.digest] = self._bars.add_task(
                    _name(fit), total=fit.epochs, status=""
                )
            loss = "" if fit.loss is None else f"  loss {fit.loss:.3f}"
            self._bars.update(
                self._fits[fit.digest],
                completed=fit.epochs_done,
                status=f"epoch {min(int(fit.epochs_done) + 1, fit.epochs)}/{fit.epochs}{loss}",
            )

    def _tell(self, done: int, line: str, *, share: float) -> None:
        """Print a line, if more is done than was told before, or now and then; in a notebook it
        takes the place of the one before, below a bar for the share that is done."""
        if self._cell is not None:
            self._cell(f'<progress value="{share:.4f}"></progress> {as_html(line)}')
            return
        told, told_at = self._told
        if done > told or time.monotonic() - told_at > _TELL_EVERY_S:
            self._told = (done, time.monotonic())
            self._console.print(line, highlight=False, soft_wrap=True)


def _below_the_cell() -> Callable[[str], None]:
    """What shows HTML below a notebook's cell, in place of what it has shown before."""
    from IPython.display import HTML, display

    shown = display(HTML(""), display_id=True)
    return lambda html: shown.update(HTML(html))


def _name(fit: FitState) -> str:
    tasks = ", ".join(fit.tasks)
    tasks = tasks if len(tasks) <= 40 else tasks[:39] + "…"
    early = "" if fit.certain else "[dim]early[/dim] "
    return f"  {early}member {fit.episode}.{fit.index + 1}  {escape(tasks)}"
