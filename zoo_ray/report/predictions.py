"""Predictions, for people and for programs."""

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from zoo_ray.errors import UserError
from zoo_ray.report.whole import whole_file
from zoo_ray.zoo.boosting import Floats

_MOST_ROWS = 20


def predictions_table(
    names: Sequence[str], classes: Sequence[str], probabilities: Floats, *, title: str
) -> RenderableType:
    """The likeliest class of each image, and the next.

    Args:
        names: of the images.
        classes: names, in the order of the columns of `probabilities`.
        probabilities: shape (images, classes).
        title: of the table.
    """
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    table.add_column("image", overflow="fold")
    for header in ("class", "probability", "next"):
        table.add_column(header, justify="right" if header == "probability" else "left")
    for name, row in list(zip(names, probabilities, strict=True))[:_MOST_ROWS]:
        first, *others = (-row).argsort(kind="stable")
        second = f"{escape(classes[others[0]])} {row[others[0]]:.3f}" if others else ""
        table.add_row(
            escape(name), f"[bold]{escape(classes[first])}[/bold]", f"{row[first]:.3f}", second
        )
    if len(names) > _MOST_ROWS:
        return Group(table, f"{len(names) - _MOST_ROWS} more; --out FILE writes all")
    return table


def check_predictions_file(file: str) -> None:
    """Tell before there are predictions what `predictions_file` would tell of its path then.

    Raises:
        UserError: it has another ending, or its folder is not there or cannot be written to.
    """
    path = Path(file)
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"--out {file}: a file's name ends in .csv or .parquet")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--out {file}: cannot be written (no folder {path.parent} for it)")


def predictions_file(
    file: str, names: Sequence[str], classes: Sequence[str], probabilities: Floats
) -> None:
    """Write a row for each image: its name, its likeliest class, and each class's probability.

    Args:
        file: its path, which ends in .csv or .parquet.
        names, classes, probabilities: as of `predictions_table`.

    Raises:
        UserError: it cannot be written, or as of `check_predictions_file`.
    """
    check_predictions_file(file)
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    likeliest = [classes[place] for place in probabilities.argmax(axis=1)]
    columns = [pa.array(names), pa.array(likeliest), *map(pa.array, probabilities.T)]
    # Two classes may have one name, and a class may be called "image".
    table = pa.Table.from_arrays(columns, names=["image", "class", *(f"p: {c}" for c in classes)])
    try:
        with whole_file(Path(file)) as out:
            write = pyarrow.csv.write_csv if file.endswith(".csv") else pq.write_table
            write(table, out)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--out {file}: cannot be written ({reason})") from None
