"""Pages about comparisons, searches, and studies of task competition."""

import csv
import io
import json
import math
import re
import shutil

import pytest
from toys import write_idx_dataset

import run_cluster
from zoo_ray.comparison import compare, mode_contender
from zoo_ray.competition import compete
from zoo_ray.config import validate_config
from zoo_ray.errors import UserError
from zoo_ray.report.page import report_page
from zoo_ray.report.study_drawings import search_drawings
from zoo_ray.report.study_sections import study_drawings
from zoo_ray.search.results import Row, findings
from zoo_ray.store import SearchRecord, Store
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
    page = report_page(found.runs, studies=found.studies)
    figures = {name for name in page.files if name.endswith(".png")}
    names = ("contenders", "bands", "by-task", "comparison-timeline")
    assert figures == {f"{name}.png" for name in names}
    for outcome in compared.outcomes:
        for metric in ("average_accuracy", "forgetting"):
            if (spread := outcome.spread(metric)) is not None:
                assert f"<td>{100 * spread.mean:z.2f} ±&nbsp;{100 * spread.sd:.2f}<" in page.html
    rows = table_of(page, "by-task.csv")
    means = {row[0]: sum(map(float, row[1:])) / 3 for row in rows[1:]}
    expected = {o.name: o.spread("average_accuracy").mean for o in compared.outcomes}
    assert means == pytest.approx(expected)
    fits = table_of(page, "comparison-timeline.csv")
    assert len(fits) - 1 == compared.fitted
    assert {row[4] for row in fits[1:]} == {"certain"}


def test_studies_are_shown_in_one_line(studies, tmp_path):
    compared, competed, store = studies
    best = max(compared.outcomes, key=lambda outcome: outcome.spread("average_accuracy").mean)
    accuracy = f"{100 * best.spread('average_accuracy').mean:.2f}% ({best.name})"
    runs = sum(len(outcome.runs) for outcome in compared.outcomes)
    alone = f"{100 * competed.mean.alone.mean():.2f}%"
    searched(other := Store(str(tmp_path)))
    for where, name, line in (
        (
            *(store, "modes"),
            f"comparison modes: {len(compared.outcomes)} contenders, {runs} zoos, "
            f"best average accuracy {accuracy}",
        ),
        (
            *(store, "pairs$"),
            f"competition study pairs$: 3 tasks, 2 seeds, average accuracy alone {alone}",
        ),
        (other, "s", "search s: 3 trials, best validation average accuracy 90.00%"),
    ):
        assert repr(find_stored(where, [name]).studies[0]) == line


def test_of_tasks_in_other_orders_each_seed_counts_by_task(studies):
    store = studies[2]
    found = find_stored(store, ["orders"])
    page = report_page([], studies=found.studies)
    assert "Each seed has its tasks in another order" in page.html
    one, other = found.studies[0].runs[0]
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
    assert alone.studies[0].together.tolist()[-1] == competed.together.tolist()[-1]
    assert alone.studies[0].run_names == beside.studies[0].run_names
    compared = find_stored(store, ["modes"]).studies
    page = report_page(beside.runs, studies=[*beside.studies, *compared])
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
    assert "fitted on more tasks for as many epochs" in page.html  # not why


def searched(store, *, name="s", metric="validation_average_accuracy", **columns):
    """Record a search of four trials, of which the first is the best and the third fails."""
    key = "zoo.tasks_per_member"
    record = SearchRecord(
        search={"metric": metric, "space": {key: {"choice": [1, 2]}}},
        samples=4,
        recipe={},
        tasks=[],
        versions={},
    )
    store.record_search(name, record)
    store.write_file(f"searches/{name}", "best.yaml", b"zoo: {name: <b>}")
    table = {
        "trial": [1, 2, 3, 2],
        "prefix": [False, False, False, True],
        key: [1, 2, 1, 2],
        "zoo.members_per_episode": [1, 2, 1, 1],
        "status": ["complete", "complete", "failed", "complete"],
        "problem": [None, None, "<b>", None],
        "episodes": [3, 3, 0, 3],
        "members": [3, 6, 0, 3],
        "images": [900, 1800, 0, 800],
        metric: [0.9, 0.8, None, 0.7],
        "by_seed": [[0.9], [0.8], [], [0.7]],
        "test_average_accuracy": [0.85, None, None, None],
        "best": [True, False, False, False],
        "near": [True, False, False, False],
        "front": [True, False, False, True],
        "digests": [["a", "b", "c"], ["a", "b", "c", "d", "e", "f"], [], ["a", "c", "e"]],
    }
    store.write_trials(name, table | columns)


def test_a_search_shows_its_trials(tmp_path):
    store = Store(str(tmp_path))
    searched(store)
    (study,) = find_stored(store, ["s"]).studies
    page = report_page([], studies=[study])
    assert {"zoo-size.svg", "cost.png", "importance.png", "trials.csv"} <= page.files.keys()
    for told in ("90.00%", "85.00%", "33%", "failed: &lt;b&gt;", "zoo: {name: &lt;b&gt;}"):
        assert told in page.html
    assert "<b>" not in page.html
    header, *rows = table_of(page, "trials.csv")
    assert header[:2] == ["trial", "zoo.tasks_per_member"]
    assert [row[0] for row in rows] == ["1", "2", "3", "2.1"]
    assert rows[0][-1] == "0.9"
    assert rows[2][-1] == ""
    # The cheaper one of the front comes first, though the table has it last.
    assert [row.name for row in study.findings.front] == ["2.1", "1"]
    assert "The front goes from 70.00% for 800 images to 90.00% for 900" in page.html
    assert "over 2 trials each searched key explains by itself: zoo.tasks_per_member no more" in (
        page.html
    )


def test_trials_of_one_size_and_cost_have_one_tick_and_are_told_once(tmp_path):
    store = Store(str(tmp_path))
    alike = {"members": [5] * 4, "images": [2604] * 4, "front": [True, False, False, False]}
    searched(store, **alike)
    (study,) = find_stored(store, ["s"]).studies
    size, cost, _ = study_drawings(study)
    assert size.text.endswith("the best with 5 members is 90.00%.")
    assert cost.text.endswith("The front is 90.00% for 2,604 images.")
    for drawing in (size, cost):
        (axes,) = drawing.draw().axes
        assert all(tick % 1 == 0 for tick in axes.get_xticks())
    assert "log" not in axes.get_xlabel()


def test_where_less_is_better_the_best_of_each_size_is_the_least():
    rows = [
        Row(trial, 1, False, {}, "complete", None, 3, size, 900, score, [score], 0.9, [])
        for trial, size, score in ((1, 3, 0.2), (2, 3, 0.1), (3, 6, 0.4))
    ]
    found = findings(rows, maximised=False, validation_samples=None)
    size, *_ = search_drawings(rows, found, {"recipe.lr": None}, metric="validation_forgetting")
    assert size.text.endswith("the best with 3 members is 10.00%, with 6 40.00%.")
    (axes,) = size.draw().axes
    assert [10, 40] in [list(line.get_ydata()) for line in axes.lines]


def test_a_search_of_an_older_zoo_ray_or_without_a_complete_trial_is_shown(tmp_path):
    store = Store(str(tmp_path))
    none = [False] * 4
    searched(store, test_average_accuracy=[None] * 4, near=none)
    (study,) = find_stored(store, ["s"]).studies
    assert study.findings.near is study.findings.best
    assert "test accuracy of the best</dt><dd>-<" in report_page([], studies=[study]).html
    searched(store, name="none", status=["failed"] * 4, best=none, front=none)
    page = report_page([], studies=find_stored(store, ["none"]).studies)
    assert not [name for name in page.files if name.endswith(".png")]


@pytest.mark.parametrize(
    "columns",
    [
        {"status": ["complete", "over", "failed", "complete"]},
        {"best": [False, False, True, False]},
        {"images": ["many"] * 4},
        {"by_seed": [[], [], [], []]},
        {"front": [False] * 4},
    ],
)
def test_a_strange_table_of_trials_is_told(tmp_path, columns):
    store = Store(str(tmp_path))
    searched(store, **columns)
    with pytest.raises(UserError, match=r"trials\.parquet: not the table of this search; tune"):
        find_stored(store, ["s"])


def test_a_table_of_no_trials_is_told(tmp_path):
    store = Store(str(tmp_path))
    searched(store)
    store.write_trials("s", {"trial": [], "digests": []})
    with pytest.raises(UserError, match=r"trials\.parquet: not the table of this search"):
        find_stored(store, ["s"])


def test_what_looks_like_mathematics_is_drawn_as_it_is(tmp_path):
    store = Store(str(tmp_path))
    searched(store, **{"zoo.tasks_per_member": ["$_{$", "$a$", "b", "c"]})
    page = report_page([], studies=find_stored(store, ["s"]).studies)
    assert "$_{$" in page.files["cost.svg"].decode()


def test_a_search_that_has_not_ended_is_told_unless_a_run_has_its_name(studies, tmp_path):
    store = Store(str(tmp_path))
    searched(store, name="modes.continual.0")
    store.files.delete("searches/modes.continual.0/trials.parquet")
    with pytest.raises(UserError, match="the search has not ended yet"):
        find_stored(store, ["modes.continual.0"])
    shutil.copytree(f"{studies[2].address}/runs", tmp_path / "runs")
    found = find_stored(store, ["modes.continual.0"])
    assert ([run.name for run in found.runs], found.studies) == (["modes.continual.0"], [])


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


@pytest.mark.parametrize("change", [{"mean": math.nan}, {"sd": "?"}, {"by_seed": []}])
def test_a_strange_spread_of_a_contender_is_told(studies, tmp_path, change):
    path = "comparisons/modes/comparison.json"
    record = json.loads(studies[2].files.read(path))
    record["contenders"][0]["average_accuracy"] |= change
    store = Store(str(tmp_path))
    store.files.replace(path, json.dumps(record).encode())
    with pytest.raises(UserError, match=r"comparison\.json: not a record .* writes it anew"):
        find_stored(store, ["modes"])


def test_contenders_whose_runs_are_gone_are_still_in_the_table(studies, tmp_path):
    store = Store(str(tmp_path))
    path = "comparisons/modes/comparison.json"
    store.files.replace(path, studies[2].files.read(path))
    page = report_page([], studies=find_stored(store, ["modes"]).studies)
    assert "contenders.png" in page.files
    assert "bands.png" not in page.files
    assert "There is none here" in page.html
