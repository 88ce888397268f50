"""Pages about comparisons, and about studies of task competition."""

import csv
import io
import json
import re

import pytest
from toys import write_idx_dataset

import run_cluster
from zoo_ray.compare import compare, mode_contender
from zoo_ray.compete import compete
from zoo_ray.config import validate_config
from zoo_ray.errors import UserError
from zoo_ray.report.page import report_page
from zoo_ray.store import Store
from zoo_ray.stored_studies import find_stored


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A comparison `modes`, one with orders by seed, `orders`, and a competition `pairs$`."""
    folder = tmp_path_factory.mktemp("studies")
    write_idx_dataset(folder / "data", classes=6, train=6, test=5)
    raw = {
        "benchmark": {"dataset": f"idx:{folder / 'data'}", "tasks": [[0, 1], [2, 3], [4, 5, 0]]},
        "recipe": {"epochs": 1, "batch": 8},
        "workers": {"count": 0},
        "store": str(folder / "store"),
    }
    config = validate_config(raw, source="test")
    contenders = [mode_contender(config, mode) for mode in ("continual", "isolated", "multihead")]
    compared = compare(config, contenders=contenders, seeds=[0, 1], name="modes")
    compare(config, contenders=contenders, seeds=[0, 1], name="orders", shuffle=True)
    competed = compete(config, seeds=[0, 1], name="pairs$")
    return compared, competed, Store(config.store)


def table_of(page, file):
    return list(csv.reader(io.StringIO(page.files[file].decode())))


def test_a_comparison_shows_its_contenders(studies):
    compared, _, store = studies
    found = find_stored(store, ["modes"])
    assert not found.runs
    page = report_page(found.runs, comparison=found.comparison)
    figures = {name for name in page.files if name.endswith(".png")}
    names = ("contenders", "bands", "by-task", "comparison-timeline")
    assert figures == {f"{name}.png" for name in names}
    for outcome in compared.outcomes:
        spread = outcome.spread("average_accuracy")
        assert f"{100 * spread.mean:.2f} ± {100 * spread.sd:.2f}" in page.html
    rows = table_of(page, "by-task.csv")
    means = {row[0]: sum(map(float, row[1:])) / 3 for row in rows[1:]}
    expected = {o.name: o.spread("average_accuracy").mean for o in compared.outcomes}
    assert means == pytest.approx(expected)
    fits = table_of(page, "comparison-timeline.csv")
    assert len(fits) - 1 == compared.fitted
    assert {row[4] for row in fits[1:]} == {"certain"}


def test_of_tasks_in_other_orders_each_seed_counts_by_task(studies):
    store = studies[2]
    found = find_stored(store, ["orders"])
    page = report_page([], comparison=found.comparison)
    assert "Each seed has its tasks in another order" in page.html
    one, other = found.comparison.runs[0]
    (_, *names), row = table_of(page, "by-task.csv")[:2]
    for name, mean in zip(names, row[1:], strict=True):
        ends = [run.accuracy[-1][run.task(name)] for run in (one, other)]
        assert float(mean) == sum(ends) / 2
    assert one.task(names[0]) != other.task(names[0])
    # Side by side they are one zoo over two seeds.
    (side,) = {r[0] for r in table_of(report_page([one, other]), "comparison.csv")[1:]}
    assert side == "orders.continual"


def test_a_competition_shows_its_matrix_with_a_run_of_it_too(studies):
    _, competed, store = studies
    alone = find_stored(store, ["pairs$"])
    beside = find_stored(store, ["pairs$.together.1"])
    assert (len(alone.runs), len(beside.runs)) == (0, 1)
    assert alone.competition.together.tolist()[-1] == competed.together.tolist()[-1]
    assert alone.competition.run_names == beside.competition.run_names
    compared = find_stored(store, ["modes"]).comparison
    page = report_page(beside.runs, comparison=compared, competition=beside.competition)
    ids = re.findall(r'\bid="([^"]+)"', page.html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page.html)) <= set(ids)
    rows = table_of(page, "competition.csv")
    assert [row[0] for row in rows[1:]] == list(competed.tasks)
    for place, row in enumerate(rows[1:]):
        gains = [float(cell) for cell in row[1:] if cell]
        assert gains == [g for g in competed.mean.gain[place] if g == g]
        assert row[1 + place] == ""
    assert len(table_of(page, "together.csv")) == 4
    assert {"competition.png", "together.png", "accuracy.png"} <= page.files.keys()
    assert f"{100 * competed.mean.asymmetry:.2f}" in page.html


def test_the_command_reports_a_study(studies, tmp_path, capsys):
    store = studies[2]
    words = ["report", "modes", "--store", store.address, "--out", str(tmp_path / "r")]
    assert run_cluster.main([*words, "--json"]) == 0
    files = json.loads(capsys.readouterr().out.splitlines()[-1])["files"]
    assert "contenders.svg" in files
    assert run_cluster.main([words[0], "pairs$", *words[1:]]) == 2
    assert "one comparison or study" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record | {"format_version": 2},
        lambda record: record | {"alone": [0.5]},
        lambda record: record | {"gain": record["gain"][:2]},
        lambda record: record | {"together": [[None] * 3] * 3},
        lambda _: [],
    ],
)
def test_a_strange_record_is_told(studies, tmp_path, change):
    record = json.loads(studies[2].files.read("comparisons/pairs$/competition.json"))
    store = Store(str(tmp_path))
    path = "comparisons/c/competition.json"
    store.files.replace(path, json.dumps(change(record)).encode())
    with pytest.raises(UserError, match=r"competition\.json: not a record .* writes it anew"):
        find_stored(store, ["c"])


def test_contenders_whose_runs_are_gone_are_still_in_the_table(studies, tmp_path):
    store = Store(str(tmp_path))
    path = "comparisons/modes/comparison.json"
    store.files.replace(path, studies[2].files.read(path))
    page = report_page([], comparison=find_stored(store, ["modes"]).comparison)
    assert "contenders.png" in page.files
    assert "bands.png" not in page.files
    assert "There is none here" in page.html
