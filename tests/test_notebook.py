"""The commands from Python, and the example notebook in a real kernel."""

import json
import re
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest
from rich.console import Console
from toys import toy_part

import zoo_ray
from zoo_ray.benchmarks import arrays_source
from zoo_ray.config import validate_config
from zoo_ray.errors import UserError
from zoo_ray.report.live import Live
from zoo_ray.stored import StoredRun

NOTEBOOK = Path(__file__).parents[1] / "docs" / "model_zoo.ipynb"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(tmp_path_factory.mktemp("store"))


def config_of(store, **keys):
    raw = {
        "benchmark": {"dataset": "arrays", "tasks": [[0, 1], [2, 3]]},
        "recipe": {"epochs": 1, "batch": 8},
        "workers": {"count": 0},
        "store": store,
    }
    return validate_config(raw | keys, source="test")


SOURCE = arrays_source(
    **{
        part: (toy.images, toy.labels)
        for part, seed in (("train", 0), ("test", 1))
        for toy in [toy_part(24, classes=4, size=28, channels=1, seed=seed)]
    }
)


def test_the_package_lists_what_it_offers():
    assert dir(zoo_ray) == sorted(zoo_ray.__all__)
    assert all(getattr(zoo_ray, name) is not None for name in dir(zoo_ray))


def test_a_comparison(store):
    study = zoo_ray.compare(
        config_of(store),
        modes=["continual", "isolated"],
        vary=["zoo.sharpness=2", ["zoo.sharpness=3", "recipe.lr=0.02"]],
        seeds=[0, 1],
        source=SOURCE,
    )
    names = ["continual", "isolated", "sharpness=2", "sharpness=3, recipe.lr=0.02"]
    assert [contender.name for contender in study.contenders][:4] == names
    rows = study.records()
    assert [row["seed"] for row in rows] == [0, 1] * (len(rows) // 2)
    for row in rows:
        run = zoo_ray.open(store, row["run"])
        assert row["average_accuracy"] == run.metrics.average_accuracy
    assert {"contenders", "bands", "by-task"} == zoo_ray.figures(study).keys()
    again = zoo_ray.open_study(store, "comparison")
    assert again.records() == rows
    page = zoo_ray.page(again, StoredRun(study.store, rows[0]["run"]))
    assert "contenders.png" in page.files
    assert "accuracy.png" in page.files
    shown = page._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert shown.count('"') == 4
    run = zoo_ray.open(store, rows[0]["run"])
    records = run.records()
    assert len(records) == 3  # the second task arrives with the second episode
    assert records[-1]["test_accuracy"] == run.accuracy[-1, -1]


def test_what_is_compared_unless_it_is_said(store):
    study = zoo_ray.compare(config_of(store), name="plain", source=SOURCE)
    assert [c.name for c in study.contenders][:3] == ["continual", "isolated", "multihead"]
    varied = zoo_ray.compare(config_of(store), vary=["zoo.sharpness=2"], name="v", source=SOURCE)
    assert [c.name for c in varied.contenders] == ["continual", "sharpness=2"]
    with pytest.raises(UserError, match=r"--modes 'both': a mode is one of continual, isolated,"):
        zoo_ray.compare(config_of(store), modes=["both"], source=SOURCE)


def test_a_competition(store):
    study = zoo_ray.compete(config_of(store), seeds=[3, 4], source=SOURCE)
    rows = study.records()
    assert [row["seed"] for row in rows] == [3, 3, 4, 4]
    assert {(row["task"], row["other"]) for row in rows} == {("0, 1", "2, 3"), ("2, 3", "0, 1")}
    assert np.mean([r["gain"] for r in rows]) == pytest.approx(np.nanmean(study.mean.gain))
    assert zoo_ray.open_study(store, "competition").records() == rows
    assert zoo_ray.figures(study).keys() == {"competition", "together"}


def test_slips_get_one_line(store):
    for call, read in (("compare", "config"), ("compete", "config"), ("tune", "search")):
        with pytest.raises(UserError, match=f"give a configuration, as of zoo_ray.read_{read}"):
            getattr(zoo_ray, call)(3)
    with pytest.raises(UserError, match="no comparison, search or competition study 'nobody'"):
        zoo_ray.open_study(store, "nobody")
    with pytest.raises(UserError, match="no run 'nobody'"):
        zoo_ray.open(store, "nobody")
    # What the other function reads.
    with pytest.raises(UserError, match=r"'competition' is no run; zoo_ray\.open_study reads"):
        zoo_ray.open(store, "competition")
    with pytest.raises(UserError, match=r"'competition.pairs.3' is a run; zoo_ray\.open reads"):
        zoo_ray.open_study(store, "competition.pairs.3")


def test_odd_arguments_get_one_line(store):
    config = config_of(store)
    for asked, told in (
        ({"seeds": 3}, "seeds: 3; give whole numbers"),
        ({"seeds": []}, r"seeds: \[\]; give whole numbers"),
        ({"seeds": [0.5]}, "seeds: .*; give whole numbers"),
        ({"modes": None}, "modes: None; give a list"),
        ({"vary": 3}, "vary: 3; give a list"),
        ({"vary": [3]}, "vary: 3; give a list"),
        ({"vary": [[]]}, r"--vary \[\]: give KEY=VALUE"),
        ({"vary": [[3]]}, r"--vary \[3\]: give KEY=VALUE"),
    ):
        with pytest.raises(UserError, match=told):
            zoo_ray.compare(config, source=SOURCE, **asked)
    for found in ((), (zoo_ray.open_study(store, "competition"),) * 2):
        with pytest.raises(UserError, match="a page shows runs, or one comparison"):
            zoo_ray.page(*found)
    given = {"modes": "continual", "vary": "zoo.sharpness=2", "seeds": np.arange(1)}
    study = zoo_ray.compare(config, name="given", source=SOURCE, **given)
    assert [contender.name for contender in study.contenders] == ["continual", "sharpness=2"]
    assert repr(zoo_ray.page(zoo_ray.open_study(Path(store), "given"))).startswith("a page, and ")


def test_progress_is_shown_below_a_cell(store, monkeypatch):
    shown = []
    monkeypatch.setattr("zoo_ray.report.live._below_the_cell", lambda: shown.append)
    monkeypatch.setattr("zoo_ray.notebook._live", lambda: Live(Console(force_jupyter=True)))
    zoo_ray.grow(config_of(store, zoo={"seed": 9}), name="shown", source=SOURCE)
    *bars, last = shown
    assert bars[0].startswith('<progress value="0.')
    assert "episode 2/2" in bars[-1]
    assert last == ""


# ---- the example


def test_it_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
def test_every_cell_runs_in_a_kernel_and_shows_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # its store, too
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert {output.output_type for output in outputs} <= {
        "display_data",
        "execute_result",
        "stream",
    }
    results = [output.data for output in outputs if output.output_type == "execute_result"]
    texts = [data["text/plain"] for data in results]
    assert float(re.search(r"average_accuracy=([\d.]+)", texts[0])[1]) > 0.9
    assert texts[1].count("nan") == 10
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "isolated: average accuracy" in printed
    assert "transfer: forward" in printed
    pictures = [data for data in results if "image/png" in data]
    assert len(pictures) == 4
    # Its own plots, with pyplot, before and after ours.
    plots = [o for o in outputs if o.output_type == "display_data" and "image/png" in o.data]
    assert len(plots) == 2
    assert "iframe" in results[-1]["text/html"]
