import csv
import errno
import io
import json
import os
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
from toys import write_idx_dataset

import run_cluster
import zoo_ray
from zoo_ray.config import validate_config
from zoo_ray.report.drawings import accuracy_drawing
from zoo_ray.report.html import timeline_section
from zoo_ray.report.page import report_page
from zoo_ray.store import Store
from zoo_ray.store.upkeep import verify
from zoo_ray.stored import StoredRun

VOID = {"meta", "link", "path", "use", "rect", "image", "br"}


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """Runs of a zoo and of Isolated, by name; class names are as hostile as files allow."""
    folder = tmp_path_factory.mktemp("page")
    write_idx_dataset(folder / "data", classes=6, train=6, test=5)
    found = {}
    for mode, seed in (("continual", 0), ("continual", 1), ("isolated", 0), ("multitask", 0)):
        raw = {
            "benchmark": {
                "dataset": f"idx:{folder / 'data'}",
                "tasks": [[0, 1], [2, 3], [4, 5, 0]],
            },
            "recipe": {"epochs": 1, "batch": 8},
            "zoo": {"mode": mode, "seed": seed},
            "workers": {"count": 0},
            "store": str(folder / "store"),
        }
        name = f"<b>&$x.{mode}.{seed}".replace("/", "")
        run = zoo_ray.grow(validate_config(raw, source="test"), name=name)
        found[mode, seed] = run
    return found


class Reader(HTMLParser):
    """Notes what opens and closes, and every attribute."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


@pytest.mark.parametrize("several", [False, True])
def test_the_page_stands_alone_and_is_well_formed(grown, several):
    runs = list(grown.values()) if several else [grown["continual", 0]]
    page = report_page(runs)
    reader = read(page.html)
    assert "<b>&$x" not in page.html  # escaped wherever it is shown
    assert any("<b>&$x.continual" in text for text in reader.texts)
    for tag, name, value in reader.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:")), (tag, value)
    ids = [value for _, name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = {v[1:] for _, n, v in reader.attributes if n == "xlink:href" and v.startswith("#")}
    used |= set(re.findall(r"url\(#([^)]+)\)", page.html))
    assert used <= set(ids)
    told = [
        value for tag, name, value in reader.attributes if (tag, name) == ("figure", "aria-label")
    ]
    assert len(told) == (8 if several else 7)
    assert all(len(text) > 30 for text in told)
    figures = {name for name in page.files if name.endswith(".png")}
    kinds = ("accuracy", "transfer", "members", "confusion", "timeline")
    assert {f"{kind}.png" for kind in kinds} <= figures
    assert all(page.files[name].startswith(b"\x89PNG") for name in figures)


def test_the_numbers_are_those_of_the_run(grown):
    run = grown["continual", 0]
    page = report_page([run])
    rows = list(csv.reader(io.StringIO(page.files["accuracy.csv"].decode())))
    assert [float(value) for value in rows[-1][1:]] == run.accuracy[-1].tolist()
    assert f"{100 * run.metrics.average_accuracy:.2f}%" in page.html
    tasks = list(csv.DictReader(io.StringIO(page.files["tasks.csv"].decode())))
    assert [float(row["in the end"]) for row in tasks] == run.accuracy[-1].tolist()
    assert [float(row["on arrival"]) for row in tasks] == run.accuracy.diagonal().tolist()
    assert f"<td>{100 * run.accuracy[-1, 0]:.2f}%</td>" in page.html
    counts = run.confusion()
    for position, matrix in enumerate(counts):
        assert matrix.trace() / matrix.sum() == run.accuracy[-1, position]
    assert "Forward: accuracy on arrival minus that of Isolated" in page.html
    alone = report_page([grown["continual", 1]])
    assert "Forward transfer needs an Isolated run" in alone.html
    assert run.isolated().name == grown["isolated", 0].name


def test_the_time_line_is_that_of_the_run_or_says_why_there_is_none(grown, tmp_path):
    run = grown["continual", 0]
    store = Store(str(shutil.copytree(run._store.address, tmp_path / "store")))
    episodes = {member.digest: member.episode for member in run.members}

    def shown():
        files = {}
        read = StoredRun(store, run.name).timeline
        told = {"name": "timeline", "episodes": episodes, "missing": "nobody wrote it"}
        return timeline_section(read, files, **told), files

    section, files = shown()
    rows = list(csv.DictReader(io.StringIO(files["timeline.csv"].decode())))
    assert [row["digest"] for row in rows] == [member.digest for member in run.members]
    assert {row["kind"] for row in rows} == {"certain"}
    assert "1 worker, 3 fits, " in section
    path = f"runs/{run.name}/timeline.parquet"
    store.files.replace(path, b"PAR1 torn")
    (problem,) = verify(store).problems
    assert path in problem.problem
    section, files = shown()
    assert "not a table; remove it" in section
    assert files == {}
    store.files.delete(path)
    assert "There is none here: nobody wrote it." in shown()[0]


def test_runs_are_seeds_of_one_another_only_on_the_same_tasks(grown, tmp_path):
    one, other = grown["continual", 0], grown["continual", 1]
    write_idx_dataset(tmp_path / "data", classes=6, train=6, test=5)
    config = one.record.config | {"store": str(tmp_path / "store")}
    config["benchmark"] = config["benchmark"] | {"tasks": [[0, 1], [2, 3]]}
    shorter = zoo_ray.grow(validate_config(config, source="test"), name="shorter")
    config["benchmark"] = one.record.config["benchmark"]
    twin = zoo_ray.grow(validate_config(config, source="test"), name="twin")
    page = report_page([one, other, shorter, twin])
    rows = list(csv.DictReader(io.StringIO(page.files["comparison.csv"].decode())))
    seeds = {row["runs"]: row["seeds"] for row in rows}
    assert list(seeds.values()) == ["2", "1"]  # of `twin`, too, the seed is 0


def test_older_records_are_seeds_of_newer_ones_and_runs_by_other_rules_are_not(grown, tmp_path):
    config = grown["continual", 0].record.config | {"store": str(tmp_path)}
    ruled = {"seed": 0, "weights": "toys.late", "tasks_per_member": 3}
    zoos = {"old": {"seed": 0}, "new": {"seed": 1}, "ruled": ruled, "edited": ruled}
    for name, zoo in zoos.items():
        changed = config | {"zoo": config["zoo"] | zoo}
        zoo_ray.grow(validate_config(changed, source="test"), name=name)
    for name, key, value in (("old", "zoo", {"seed": 0}), ("edited", "weights_source", "0" * 64)):
        path = tmp_path / f"runs/{name}/run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    page = report_page([zoo_ray.open(str(tmp_path), name) for name in zoos])
    rows = list(csv.DictReader(io.StringIO(page.files["comparison.csv"].decode())))
    assert {row["runs"]: row["seeds"] for row in rows} == {"old": "2", "ruled": "1", "edited": "1"}


def test_tasks_that_nobody_knows_are_told(grown, tmp_path):
    config = grown["multitask", 0].record.config | {"store": str(tmp_path)}
    config["zoo"] = config["zoo"] | {"rounds": 1, "tasks_per_member": 1}
    page = report_page([zoo_ray.grow(validate_config(config, source="test"), name="a")])
    assert "No member knows 2 of them, which count as guessed." in page.html
    assert "on arrival" not in page.html


def test_means_over_seeds_are_numbers(grown):
    page = report_page(list(grown.values()))
    rows = list(csv.DictReader(io.StringIO(page.files["comparison.csv"].decode())))
    (row,) = (r for r in rows if r["seeds"] == "2" and r["metric"] == "average_accuracy")
    values = [grown["continual", seed].metrics.average_accuracy for seed in (0, 1)]
    assert [float(value) for value in row["by_seed"].split("; ")] == values
    assert float(row["mean"]) == np.mean(values)
    assert float(row["sd"]) == np.std(values, ddof=1)
    assert {r["sd"] for r in rows if r["seeds"] == "1"} == {""}
    assert f"{100 * np.mean(values):.2f} ±&nbsp;{100 * np.std(values, ddof=1):.2f}" in page.html


def test_names_in_any_script_are_drawn_without_a_warning():
    names = ["数字", "🍎"]
    accuracy = np.array([[0.5, np.nan], [0.6, 0.7]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawing = accuracy_drawing(accuracy, names)
        drawing.png(of="数字")
        _, svg = drawing.render()
    assert "数字" in svg


def test_a_full_disk_leaves_the_earlier_page(grown, tmp_path, capsys, monkeypatch):
    run = grown["continual", 0]
    words = ["report", run.name, "--store", run._store.address, "--out", str(tmp_path)]
    (tmp_path / "index.html").write_text("before")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk)
        assert run_cluster.main(words) == 2
    assert "cannot be written (No space left on device)" in capsys.readouterr().err
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("index.html", "before")]


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_rounds_have_no_transfer(grown):
    page = report_page([grown["multitask", 0]])
    assert "transfer.png" not in page.files
    assert "learning accuracy" not in page.html


def test_the_command_writes_it(grown, tmp_path, capsys):
    run = grown["continual", 0]
    words = ["report", run.name, "--store", run._store.address, "--out", str(tmp_path / "r")]
    assert run_cluster.main(words) == 0
    assert str(tmp_path / "r" / "index.html") in capsys.readouterr().out
    assert (tmp_path / "r" / "tasks.csv").exists()
    assert run_cluster.main([*words[:1], "nobody", *words[2:]]) == 2
    assert "no run 'nobody'" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert run_cluster.main([*words[:-1], str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the browser chromium")
def test_a_browser_shows_it_without_a_complaint(grown, tmp_path):
    page = report_page([grown["continual", 0], grown["isolated", 0]])
    file = tmp_path / "index.html"
    file.write_text(page.html)
    told = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--window-size=400,900", f"--screenshot={tmp_path / 'page.png'}", f"file://{file}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert "CONSOLE" not in told.stderr
