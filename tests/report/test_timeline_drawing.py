import pytest

from zoo_ray.diary import FitTime
from zoo_ray.report.timeline import timeline_drawing, timeline_of, timeline_rows


def fit(worker, begin, end, digest, *, certain=True, ending="published", session="a", workers=2):
    return FitTime(session, workers, worker, begin, end, certain, digest, ending)


FITS = [
    fit(0, 900.0, 904.0, "e", session="later", workers=1),
    fit(0, 100.0, 104.0, "a"),
    fit(1, 101.0, 103.0, "b", certain=False),
    fit(1, 103.0, 104.0, "c", certain=False, ending="left"),
    fit(0, 104.0, 108.0, "d"),
    fit(1, 104.0, 107.0, "e", ending="open"),
]


def test_sessions_follow_one_another_without_a_pause():
    line = timeline_of(FITS, used={"a", "b", "d", "e"})
    assert [each.digest for each in line.fits] == ["a", "b", "c", "d", "e", "e"]
    assert line.begins.tolist() == [0, 1, 3, 4, 4, 8]
    assert line.ends.tolist() == [4, 3, 4, 8, 7, 12]
    assert (line.workers, line.span) == (2, 12)
    kinds = ["certain", "early and used", "early and unused", "certain", "cut short", "certain"]
    assert list(line.kinds) == kinds
    # Of two workers for 8 s, and one for 4.
    assert line.shares() == pytest.approx(
        {
            "certain": 12 / 20,
            "early and used": 2 / 20,
            "early and unused": 1 / 20,
            "cut short": 3 / 20,
            "idle": 2 / 20,
        }
    )
    header, rows = timeline_rows(line)
    assert [dict(zip(header, row, strict=True))["session"] for row in rows] == [*"11111", "2"]


def test_the_words_say_what_the_drawing_shows():
    drawing = timeline_drawing(timeline_of(FITS, used={"a", "b"}))
    assert drawing.text == (
        "2 workers, 6 fits, 12.0 s in 2 sessions. Of the workers' time: 60% certain, "
        "10% early and used, 5% early and unused, 15% cut short, 10% idle."
    )
    assert "a dashed line" in drawing.caption
    assert "Cut short" in drawing.caption
    _, svg = drawing.render()
    for word in ("worker 0", "worker 1", "early and unused", "idle", "seconds from"):
        assert word in svg
    assert "worker 2" not in svg


def test_many_workers_are_summarised():
    fits = [fit(rank, 10.0 + rank % 7, 40.0, str(rank), workers=100) for rank in range(90)]
    drawing = timeline_drawing(timeline_of(fits, used=set()))
    assert drawing.caption.startswith("How many workers fitted what")
    _, svg = drawing.render()
    assert "worker 0" not in svg
    assert len(svg) < 100_000
    assert "100 workers, 90 fits" in drawing.text


def test_a_moment_can_be_drawn():
    drawing = timeline_drawing(timeline_of([fit(0, 5.0, 5.0, "a", workers=1)], used=set()))
    assert drawing.render()[0].startswith(b"\x89PNG")
