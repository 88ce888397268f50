"""The measurements run, on a few dozen images, and keep the contract of their JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toys import write_idx_dataset

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "toys"
    write_idx_dataset(folder, classes=10, train=12, test=4)
    return f"idx:{folder}"


def bench(name, *words):
    command = [sys.executable, f"bench/{name}.py", "--json", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_zoo(dataset):
    found = bench("zoo", "--epochs", "1", "--dataset", dataset, "--set", "workers.count=0")
    assert list(found) == [
        *("epochs", "ours_s", "plain_s", "competent_s", "ratio", "ratio_competent"),
        *("ours_accuracy", "plain_accuracy"),
    ]
    assert found["epochs"] == 1
    assert found["ratio"] == pytest.approx(found["plain_s"] / found["ours_s"], rel=1e-2)
    assert 0 <= found["plain_accuracy"] <= 1


@pytest.mark.slow
def test_zoo_with_one_contestant(dataset):
    found = bench("zoo", "--epochs", "1", "--dataset", dataset, "--only", "competent")
    assert found["competent_s"] > 0
    assert found["ours_s"] is found["plain_s"] is found["ratio"] is found["ours_accuracy"] is None


@pytest.mark.slow
def test_fit(dataset):
    rows = ["plain", "fused", "ours_float32"]
    words = ["--dataset", dataset, "--images", "20", "--epochs", "2", "--repeats", "1"]
    found = bench("fit", *words, "--rows", *rows)
    assert list(found) == [
        *("images", "epochs", "ratio", "ratio_competent", "of_roofline", "rows", "roofline")
    ]
    assert found["images"] == 40
    assert found["of_roofline"]["float32"] > 0
    assert found["of_roofline"]["bfloat16"] is found["ratio_competent"] is None
    assert found["of_roofline"]["float32"] == found["rows"]["ours_float32"]["of_roofline"]
    assert found["roofline"]["small_conv"]["float32"]["images_per_s"] > 0
    assert found["roofline"]["small_conv"]["bfloat16"]["images_per_s"] is None
    assert list(found["rows"]) == rows
    for row in found["rows"].values():
        assert row["steady_images_per_cpu_s"] > 0
    assert found["rows"]["plain"]["predictions_per_s"] is None
    assert found["rows"]["fused"]["of_roofline"] is None
    # As the issue counts them: forward and backward, images of 32 x 32 pixels.
    mflop = {name: found["roofline"][name]["mflop_per_image"] for name in found["roofline"]}
    assert mflop == pytest.approx({"small_conv": 71.7, "wide_resnet_16_4": 2355}, rel=1e-3)


@pytest.mark.slow
def test_recorded_zoos_are_replayed(dataset, tmp_path):
    command = [sys.executable, "bench/record.py", "bench/streams/short.yaml", str(tmp_path)]
    command += ["--seeds", "1", f"--set=benchmark.dataset={dataset}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"b2-seed0.npz", "b5-seed0.npz"}
    found = bench("schedule", str(tmp_path))
    assert list(found) == ["b5", "b2"]
    for speedups in found.values():
        assert list(speedups) == ["2", "4", "8", "16"]
        assert 1 <= speedups["2"] <= 2
        assert speedups["2"] <= speedups["16"] <= 16
    assert bench("schedule", str(tmp_path), "--workers", "1")["b5"] == {"1": 1.0}


def test_driver_scale():
    words = ["--tasks", "12", "--workers", "8", "--tasks-per-member", "3"]
    found = bench("driver_scale", *words, "--members-per-episode", "2")
    assert list(found) == ["ms_per_member", "members", "tasks", "rss_mb"]
    assert (found["members"], found["tasks"]) == (24, 12)
    assert found["ms_per_member"] > 0


@pytest.mark.slow
def test_workers(dataset):
    found = bench("workers", "--dataset", dataset)
    assert list(found) == ["workers", "one_s", "more_s", "ratio", "shortest_fit_s", "equal"]
    assert found["equal"]
