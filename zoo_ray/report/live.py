"""Progress while a zoo grows: bars on a terminal, a line an episode elsewhere."""

import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from zoo_ray.progress import FitState, Progress

_TELL_EVERY_S = 30.0


class Live:
    """Shows a run's progress on a console. Use it as a context manager."""

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
        self._told = (0, time.monotonic())

    def __enter__(self) -> "Live":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, progress: Progress) -> None:
        """Show the present state."""
        if not self._console.is_terminal:
            self._tell(progress)
            return
        accuracy = progress.test_accuracy
        status = f"episode {progress.episodes_done}/{progress.episodes}" + (
            "" if accuracy is None else f"  accuracy {100 * accuracy:.1f}%"
        )
        if progress.fits or progress.fitted:
            self._bars.update(self._zoo, total=1.0, completed=progress.work_share, status=status)
        else:
            self._bars.update(self._zoo, status=f"{status}  waiting for workers")
        for gone in self._fits.keys() - {fit.digest for fit in progress.fits}:
            self._bars.remove_task(self._fits.pop(gone))
        for fit in progress.fits:
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

    def _tell(self, progress: Progress) -> None:
        episodes_told, told_at = self._told
        accuracy = progress.test_accuracy
        if progress.episodes_done > episodes_told or time.monotonic() - told_at > _TELL_EVERY_S:
            self._told = (progress.episodes_done, time.monotonic())
            early = progress.speculative
            self._console.print(
                f"episode {progress.episodes_done}/{progress.episodes}  "
                f"members {progress.members_done}/{progress.members}  "
                f"work {progress.work_share:.0%}"
                + (f"  early {early.used} of {early.fitted} used" if early.fitted else "")
                + ("" if accuracy is None else f"  accuracy {100 * accuracy:.1f}%"),
                highlight=False,
            )


def _name(fit: FitState) -> str:
    tasks = ", ".join(fit.tasks)
    tasks = tasks if len(tasks) <= 40 else tasks[:39] + "…"
    early = "" if fit.certain else "[dim]early[/dim] "
    return f"  {early}member {fit.episode}.{fit.index + 1}  {escape(tasks)}"
