import json
from dataclasses import replace

import pytest
from toys import write_idx_dataset

import run_cluster
from zoo_ray import open_study
from zoo_ray.comparison import _outcome, compare, mode_contender, varied_contender
from zoo_ray.config import validate_config
from zoo_ray.errors import UserError
from zoo_ray.run import grow
from zoo_ray.store import Store
from zoo_ray.stored_studies import find_studies, remove_stored

MODES = ("continual", "isolated", "multihead", "multitask", "uniform")


@pytest.fixture
def config(tmp_path):
    write_idx_dataset(tmp_path / "data", classes=6, train=6, test=5)
    raw = {
        "benchmark": {
            "dataset": f"idx:{tmp_path / 'data'}",
            "tasks": [[0, 1], [2, 3], [4, 5]],
        },
        "recipe": {"epochs": 1, "batch": 8},
        "zoo": {"tasks_per_member": 2},
        "workers": {"count": 0},
        "store": str(tmp_path / "store"),
    }
    return validate_config(raw, source="test")


def test_zoos_of_a_comparison_are_runs_as_train_grows_them(config):
    contenders = [mode_contender(config, mode) for mode in MODES]
    result = compare(config, contenders=contenders, seeds=[0, 7], name="c")
    assert [outcome.name for outcome in result.outcomes] == [*MODES, "isolated x 2"]
    for outcome in result.outcomes[:-1]:
        assert outcome.runs == [f"c.{outcome.name}.0", f"c.{outcome.name}.7"]
        zoo = config.zoo.in_mode(outcome.name).model_copy(update={"seed": 7})
        alone = config.model_copy(update={"zoo": zoo})
        again = grow(alone, name=f"c.{outcome.name}.7")
        assert again.fitted == 0
        assert again.metrics == outcome.metrics[1]
    assert result.asked == 2 * (3 + 3 + 1 + 3 + 3 + 6)
    # Isolated's members are the first of the matched one's, and the first of the zoo's.
    distinct = {d for o in result.outcomes for r in o.runs for d in digests(config, r)}
    assert result.fitted == len(distinct) < result.asked
    assert (result.read, compare_again(config, contenders).fitted) == (0, 0)


def test_each_seed_may_have_an_order_of_its_own(config):
    """The order that `train` takes from benchmark.order_seed; and tasks keep their content."""
    contenders = [mode_contender(config, mode) for mode in ("continual", "isolated")]
    result = compare(config, contenders=contenders, seeds=[0, 2], name="c", shuffle=True)
    store = Store(config.store)
    for outcome in result.outcomes[:2]:
        orders = [[task.digest for task in store.read_run(run).tasks] for run in outcome.runs]
        assert orders[0] != orders[1]
        assert sorted(orders[0]) == sorted(orders[1])
    ordered = config.benchmark.model_copy(update={"order_seed": 2})
    zoo = config.zoo.model_copy(update={"seed": 2})
    alone = grow(config.model_copy(update={"benchmark": ordered, "zoo": zoo}), name="alone")
    assert (alone.fitted, alone.metrics) == (0, result.outcomes[0].metrics[1])
    with pytest.raises(UserError, match="its tasks arrive in another order"):
        compare(config, contenders=contenders, seeds=[0, 2], name="c")


def digests(config, run):
    return Store(config.store).read_table(run, "episodes.parquet")["digest"]


def compare_again(config, contenders):
    return compare(config, contenders=contenders, seeds=[0, 7], name="c")


def test_images_and_transfer_are_paired(config):
    contenders = [mode_contender(config, mode) for mode in ("continual", "isolated")]
    result = compare(config, contenders=contenders, seeds=[1, 2, 3], name="c")
    zoo, isolated, matched = result.to_dict()["contenders"]
    assert (zoo["images"], isolated["images"], matched["images"]) == (60, 36, 72)
    assert zoo["difference"]["by_seed"] == [0, 0, 0]
    for key, metric, other in (
        ("difference", "average_accuracy", matched),
        ("forward_transfer", "learning_accuracy", zoo),
    ):
        reference = zoo if key == "difference" else isolated
        expected = [
            a - b
            for a, b in zip(other[metric]["by_seed"], reference[metric]["by_seed"], strict=True)
        ]
        assert other[key]["by_seed"] == expected
    assert (isolated["forward_transfer"], matched["forward_transfer"]) == (None, None)


def test_a_contender_that_cannot_be_grown_does_not_end_the_others(config):
    contenders = [mode_contender(config, "continual"), varied_contender(config, ["recipe.lr=1e6"])]
    result = compare(config, contenders=contenders, seeds=[0], name="c")
    good, bad = result.outcomes
    assert good.problem is None
    assert "recipe.lr" in bad.problem
    assert result.to_dict()["contenders"][1]["average_accuracy"] is None
    with pytest.raises(UserError, match="no zoo could be grown"):
        compare(config, contenders=contenders[1:], seeds=[0], name="d")


def test_what_was_grown_is_kept_if_every_contender_lacks_a_seed(config, monkeypatch):
    def of_one_seed_less(*args):
        return replace(_outcome(*args), problem="one seed failed", metrics=[])

    monkeypatch.setattr("zoo_ray.comparison._outcome", of_one_seed_less)
    compare(config, contenders=[mode_contender(config, "continual")], seeds=[0, 1], name="c")
    stored = open_study(config.store, "c")
    assert [contender.problem for contender in stored.contenders] == ["one seed failed"]
    assert len(stored.runs[0]) == 2


@pytest.mark.parametrize("again", [False, True])
def test_a_rule_of_weights_that_fails_late_does_not_end_the_others(config, again):
    """Also if all of its members but the last are in the store."""
    raw = config.model_dump(exclude_unset=True)
    raw["benchmark"]["tasks"] = [[0, 1], [2, 3], [4, 5], [0, 5]]
    config = validate_config(raw, source="test")
    plain = mode_contender(config, "continual")
    for _ in range(1 + again):
        ruled = varied_contender(config, ["zoo.weights=toys.late"])
        result = compare(config, contenders=[ruled, plain], seeds=[0], name="c")
    bad, good = result.outcomes
    assert good.problem is None
    assert bad.problem.startswith("zoo.weights = toys.late: ")
    assert bad.problem.endswith("a rule of your own")
    assert "AssertionError: too late" in bad.problem
    with pytest.raises(UserError, match="too late"):
        grow(ruled.config, name="alone")


def test_a_mode_drops_the_keys_that_have_no_meaning_in_it(config):
    raw = config.model_dump(exclude_unset=True)
    raw["zoo"] |= {"replay": 0.5, "closing_rounds": 2}
    config = validate_config(raw, source="test")
    zoo = mode_contender(config, "multihead").config.zoo
    assert (zoo.mode, zoo.replay, zoo.closing_rounds) == ("multihead", 1.0, 0)
    assert mode_contender(config, "uniform").config.zoo.replay == 0.5


@pytest.mark.parametrize(
    ("items", "told"),
    [
        (["zoo.seed=3"], "--seeds"),
        (["benchmark.samples_per_class=3"], "keys of zoo and recipe"),
        (["zoo.rounds=3"], "goes with mode: multitask"),
        (["zoo.colour=red"], "unknown key zoo.colour"),
        (["zoo.replay"], "--vary zoo.replay: expected KEY=VALUE"),
        (["zoo={seed: 3}"], "--seeds"),
        (["zoo.replay=1e-9"], "replay"),
    ],
)
def test_what_cannot_be_varied_is_said(config, items, told):
    with pytest.raises(UserError, match=told):
        varied_contender(config, items)


def test_names_of_runs_tell_contenders_apart(config):
    contenders = [
        varied_contender(config, [item])
        for item in ("zoo.sharpness=1e+1", "zoo.sharpness=1e-1", "zoo.sharpness=12")
    ]
    many = ["zoo.sharpness=2", "zoo.count_penalty=1", "zoo.closing_rounds=1", "recipe.batch=8"]
    contenders.append(varied_contender(config, [*many, "zoo.tasks_per_member=3"]))
    result = compare(config, contenders=contenders, seeds=[0], name="c")
    runs = [outcome.runs[0] for outcome in result.outcomes]
    assert runs[:3] == ["c.sharpness=1e+1.0", "c.sharpness=1e-1.0", "c.sharpness=12.0"]
    assert runs[3].startswith("c.sharpness=2,count_penalty=1,closing_rounds=1,")
    assert len(runs[3]) < 80


def test_what_a_failed_comparison_fitted_stays_claimed(config):
    contenders = [mode_contender(config, "continual"), varied_contender(config, ["recipe.lr=1e6"])]
    compare(config, contenders=contenders, seeds=[0], name="c")
    store = Store(config.store)
    assert store.read_wanted("runs/c.recipe.lr=1e6.0")
    assert not store.read_wanted("runs/c.continual.0")


def test_what_is_grown_already_is_recorded_before_the_rest_is_fitted(config, monkeypatch):
    one, other = mode_contender(config, "isolated"), mode_contender(config, "uniform")
    compare(config, contenders=[one], seeds=[0], name="c")
    store = Store(config.store)
    store.remove("runs/c.isolated.0")

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo_ray.comparison._grow", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(config, contenders=[one, other], seeds=[0], name="c")
    assert len(digests(config, "c.isolated.0")) == 3


def test_a_comparison_that_is_stopped_is_told_and_removed_with_its_runs(config):
    def stop(*_):
        raise KeyboardInterrupt

    contenders = [mode_contender(config, "uniform")]
    with pytest.raises(KeyboardInterrupt):
        compare(config, contenders=contenders, seeds=[0, 1], name="c", on_progress=stop)
    store = Store(config.store)
    with pytest.raises(
        UserError, match=r"comparisons/c: .* not ended yet; .*: c\.uniform\.0 \.\.\."
    ):
        find_studies(store, "c")
    store.write_file("comparisons/c", "begun.json", b"{}")  # of no use, and no harm
    assert find_studies(store, "c") == []
    with pytest.raises(KeyboardInterrupt):
        compare(config, contenders=contenders, seeds=[0, 1], name="c", on_progress=stop)
    assert remove_stored(store, "c").runs == ["c.uniform.0", "c.uniform.1"]
    assert [*store.files.list("runs")] == [*store.files.list("comparisons")] == []


def test_a_run_is_written_as_soon_as_its_zoo_is_grown(config):
    contenders = [mode_contender(config, mode) for mode in ("uniform", "multihead")]
    seen = set()

    def look(*_):
        seen.add(Store(config.store).read_table("c.uniform.0", "confusion.parquet") is not None)

    compare(config, contenders=contenders, seeds=[0], name="c", on_progress=look)
    assert seen == {False, True}


def test_auto_precision_is_what_it_was(config, monkeypatch):
    """Also for those who join: they may be compared on another machine."""
    one, other = mode_contender(config, "isolated"), mode_contender(config, "uniform")
    before = compare(config, contenders=[one], seeds=[0], name="c").outcomes[0].recipe.precision
    now = {"float32": "bfloat16", "bfloat16": "float32"}[before]
    monkeypatch.setattr("zoo_ray.plan.resolve_precision", lambda **_: now)
    result = compare(config, contenders=[other, one], seeds=[0], name="c")
    assert {outcome.recipe.precision for outcome in result.outcomes} == {before}


def test_contenders_and_seeds_are_distinct(config):
    one = mode_contender(config, "isolated")
    with pytest.raises(UserError, match="isolated is given twice"):
        compare(config, contenders=[one, one], seeds=[0], name="c")
    with pytest.raises(UserError, match="--seeds: 3 is given twice"):
        compare(config, contenders=[one], seeds=[3, 3], name="c")
    with pytest.raises(UserError, match=r"--seeds: zoo\.seed = -1"):
        compare(config, contenders=[one], seeds=[-1], name="c")


def test_the_command_line(config, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(config.model_dump(mode="json", exclude_unset=True)))
    words = ["compare", str(file), "--seeds", "0", "1", "--json"]
    assert run_cluster.main([*words, "--vary", "zoo.sharpness=3", "recipe.l2=0"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    names = [contender["name"] for contender in result["contenders"]]
    assert names == ["continual", "sharpness=3, recipe.l2=0"]
    assert "mean ± standard deviation over 2 seeds" in err
    folder = tmp_path / "store" / "comparisons" / "run"
    assert (folder / "report" / "contenders.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((folder / "comparison.json").read_text())
    assert stored["contenders"] == result["contenders"]
    assert not (folder / "wanted.json").exists()
    # Another configuration under the same name is refused.
    assert run_cluster.main([*words[:2], "--seeds", "0", "--set", "recipe.lr=0.3"]) == 2
    assert "another configuration: recipe.lr" in capsys.readouterr().err


def test_without_words_the_baselines_are_compared(config, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(config.model_dump(mode="json", exclude_unset=True)))
    assert run_cluster.main(["compare", str(file), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    names = [contender["name"] for contender in result["contenders"]]
    assert names == ["continual", "isolated", "multihead", "isolated x 2"]
    assert result["contenders"][0]["average_accuracy"]["sd"] is None


def test_runs_of_earlier_contenders_are_removed_with_the_comparison(config):
    grow(config, name="c.own")
    for mode in ("continual", "isolated", "multihead", "multihead"):
        compare(config, contenders=[mode_contender(config, mode)], seeds=[0], name="c")
    store = Store(config.store)
    removed = remove_stored(store, "c")
    assert set(removed.runs) == {"c.continual.0", "c.isolated.0", "c.multihead.0"}
    assert [run.name for run in store.runs()] == ["c.own"]
