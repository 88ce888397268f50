import json

import numpy as np
import pytest
from toys import write_idx_dataset

import run_cluster
from zoo_ray import open_study
from zoo_ray.comparison import compare, mode_contender
from zoo_ray.competition import compete
from zoo_ray.config import validate_config
from zoo_ray.errors import UserError
from zoo_ray.plan import plan_run
from zoo_ray.store import Store
from zoo_ray.stored_studies import remove_stored


@pytest.fixture
def config(tmp_path):
    write_idx_dataset(tmp_path / "data", classes=7, train=6, test=5)
    raw = {
        "benchmark": {
            "dataset": f"idx:{tmp_path / 'data'}",
            "tasks": [[0, 1], [2, 3, 4], [5, 6]],
        },
        "recipe": {"epochs": 1, "batch": 8},
        "zoo": {"members_per_episode": 3, "closing_rounds": 1},  # which have no meaning here
        "workers": {"count": 0},
        "store": str(tmp_path / "store"),
    }
    return validate_config(raw, source="test")


def test_the_study_is_what_its_members_predicted(config):
    result = compete(config, seeds=[0, 5], name="c")
    tasks, store = plan_run(config).tasks, Store(config.store)
    accuracy = {}
    for run in ("c.pairs.0", "c.pairs.5", "c.together.0", "c.together.5"):
        table = store.read_table(run, "episodes.parquet")
        for positions, digest in zip(table["tasks"], table["digest"], strict=True):
            stored = store.read_predictions(digest)
            for position, predicted in zip(positions, stored.predictions, strict=True):
                right = predicted["test"].argmax(axis=1) == tasks[position].test.labels
                key = (run, tuple(positions), position)
                accuracy[key] = right.mean()
    assert len({key[:2] for key in accuracy if "pairs.0" in key[0]}) == 6
    for number, seed in enumerate((0, 5)):
        pairs = f"c.pairs.{seed}"
        for i in range(3):
            for j in range(3):
                gain = result.by_seed[number].gain[i, j]
                if i == j:
                    assert np.isnan(gain)
                else:
                    together = accuracy[pairs, tuple(sorted((i, j))), i]
                    assert gain == together - accuracy[pairs, (i,), i]
    for several in range(3):
        for i in range(several + 1):
            crowd = tuple(range(several + 1))
            both = [accuracy[f"c.together.{seed}", crowd, i] for seed in (0, 5)]
            assert result.together[several, i] == np.mean(both)
    # Members on one task, and on the first two, are the same ones in part.
    assert result.asked == 2 * (6 + 3)
    assert result.fitted == result.asked - 2  # the first task alone, for each seed
    assert compete(config, seeds=[0, 5], name="c").fitted == 0
    stored = open_study(config.store, "c")
    for there, here in zip(stored.by_seed, result.by_seed, strict=True):
        assert there.alone.tolist() == here.alone.tolist()
        np.testing.assert_array_equal(there.gain, here.gain)


def test_the_command_shows_and_keeps_it(config, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(config.model_dump(mode="json", exclude_unset=True)))
    assert run_cluster.main(["compete", str(file), "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert [row[place] for place, row in enumerate(result["gain"])] == [None] * 3
    assert result["tasks"] == ["0, 1", "2, 3, 4", "5, 6"]
    assert "mean difference of the two directions" in err
    folder = tmp_path / "store" / "comparisons" / "run"
    for figure in ("competition", "together"):
        assert (folder / "report" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((folder / "competition.json").read_text())
    assert stored["gain"] == result["gain"]


def test_what_cannot_be_studied_is_told(config):
    raw = config.model_dump(mode="json", exclude_unset=True)
    one = validate_config(raw | {"benchmark": raw["benchmark"] | {"tasks": [[0, 1]]}}, source="t")
    with pytest.raises(UserError, match="one task has none to compete with"):
        compete(one, seeds=[0], name="c")
    bad = validate_config(raw | {"recipe": raw["recipe"] | {"lr": 1e6}}, source="t")
    with pytest.raises(UserError, match=r"recipe\.lr"):
        compete(bad, seeds=[0], name="c")


def test_a_name_is_a_comparisons_or_a_studys(config, tmp_path):
    contenders = [mode_contender(config, "isolated")]
    compete(config, seeds=[0], name="a")
    compare(config, contenders=contenders, seeds=[0], name="b")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"a/competition.json is what compete .* another --name"):
        compare(config, contenders=contenders, seeds=[0], name="a")
    with pytest.raises(UserError, match=r"b/comparison.json is what compare .* another --name"):
        compete(config, seeds=[0], name="b")
    assert sorted(tmp_path.rglob("*")) == before


def test_runs_of_other_seeds_are_removed_with_the_study(config):
    for seed in (0, 1):
        compete(config, seeds=[seed], name="c")
    removed = remove_stored(Store(config.store), "c")
    expected = {f"c.{zoo}.{seed}" for zoo in ("pairs", "together") for seed in (0, 1)}
    assert set(removed.runs) == expected
    assert Store(config.store).runs() == []
