"""The file of predictions."""

import io
import os
import resource
import signal

import numpy as np
import pytest
from rich.console import Console

from zoo_ray.errors import UserError
from zoo_ray.report.predictions import predictions_file, predictions_table


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_earlier_file_stays_if_there_is_no_room(tmp_path, kind):
    file = tmp_path / f"p.{kind}"
    file.write_text("before")
    names = [str(number) for number in range(5000)]
    probabilities = np.random.default_rng(0).dirichlet([1, 1], len(names))
    # A limit on the size of files is met as a full disk is: some of it is written.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be written \(File too large\)"):
            predictions_file(str(file), names, ["a", "b"], probabilities)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(file.name, "before")]
    predictions_file(str(file), names, ["a", "b"], probabilities)
    assert os.listdir(tmp_path) == [file.name]
    assert file.stat().st_size > 10_000


def test_of_equals_the_first_is_shown_as_it_is_counted():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(predictions_table(["i.png"], ["cat", "dog"], np.array([[0.5, 0.5]]), title="t"))
    (row,) = [line for line in console.export_text().splitlines() if "i.png" in line]
    assert row.index("cat") < row.index("dog")


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"cannot be written \(no folder .*no for it\)"):
        predictions_file(str(tmp_path / "no/p.csv"), ["i"], ["a"], np.ones((1, 1)))
