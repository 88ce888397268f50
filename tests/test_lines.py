"""Lines about work under way say to `jobs` what they say to people."""

import time

import pytest

from zoo_ray.lines import (
    Line,
    comparison_status,
    last_line,
    run_line,
    search_status,
    study_line,
    with_time_left,
)
from zoo_ray.progress import Progress, SearchProgress, Speculative


def progress(**values):
    return Progress(
        **{
            "episodes_done": 3,
            "episodes": 5,
            "members_done": 6,
            "members": 10,
            "fitted": 6,
            "first_fit": time.time() - 100,
            "work_share": 0.5,
            "test_accuracy": 0.9712,
            "fits": (),
            "speculative": Speculative(4, 3),
        }
        | values
    )


OF_ZOOS = SearchProgress(
    members_done=5, waiting=2, first_fit=time.time() - 60, fits=(), problems={}
)


def of_zoos(status, *, share):
    return with_time_left(status, share=share, since=OF_ZOOS.first_fit)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (run_line(progress()), Line("episode 3/5", "97.1", "0:01:40")),
        (
            run_line(progress(test_accuracy=None, first_fit=None, speculative=Speculative())),
            Line("episode 3/5"),
        ),
        (run_line(progress(work_share=1.0, members_done=10)), Line("episode 3/5", "97.1")),
        (
            of_zoos(search_status(OF_ZOOS, ended=1, trials=4, best=0.5), share=0.25),
            Line("1 of 4 trials", "50.0", "0:03:00"),
        ),
        # As an older zoo_ray wrote it into a log.
        ("1 of 4 trials, 5 members  best 50.0%", Line("1 of 4 trials", "50.0")),
        (
            of_zoos(comparison_status(OF_ZOOS, asked=10), share=0.5),
            Line("5 of at most 10 members", None, "0:01:00"),
        ),
    ],
)
def test_the_last_line_of_a_log_is_read(line, said):
    log = f"starting\nepisode 0/5  members 0/10  work 0%\n{line}\n| a table |\nand more\n"
    assert last_line(log) == said


def test_a_search_tells_of_the_validation_part():
    assert "best validation 50.0%" in search_status(OF_ZOOS, ended=1, trials=4, best=0.5)


def test_whether_a_run_waits_for_workers_is_said():
    assert "waiting for workers" in run_line(progress())
    assert "waiting" not in run_line(progress(members_done=10))


def test_of_what_was_all_read_the_result_is_told():
    assert last_line("| a table |\naverage accuracy   99.15%\n") == Line("all read", "99.15")


def test_zoos_grown_together_are_no_more_on_their_way():
    progress = "0 of at most 1200 members, 30 waiting"
    end = study_line(asked=1200, fitted=12, read=8, wall_s=30.2)
    assert last_line(f"{progress}\n| a table |\n{end}\na/file.json\n") == Line(
        "1,200 members asked for"
    )
    best = "test accuracy of the best: 98.52%"
    log = f"3 of 12 trials, 20 members  best 97.0%\n| a table |\n{best}\n{end}\na/file.json\n"
    assert last_line(log) == Line("1,200 members asked for", "98.52")


@pytest.mark.parametrize("log", ["", "nothing yet\n", "said: episode 3/5 of the series\n"])
def test_a_log_without_such_lines(log):
    assert last_line(log) is None
