"""A whole Split-CIFAR10 zoo, from the command to the result, beside two baselines.

    python bench/zoo.py --epochs 1 --dataset parquet:PATH --json

Ours is `run_cluster.py train` as a user types it, Ray's start included; the baselines are those of
`bench/baselines.py`, as sequential zoos. Each is a process of its own with a wall clock around it,
so imports and the reading of images count for all.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/split_cifar10.yaml"
CONTESTANTS = ("ours", "plain", "competent")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the contestants in turn and compare their medians."""
    arguments = _parser().parse_args(argv)
    if not arguments.dataset:
        print("error: give --dataset parquet:PATH, or set ZOO_RAY_CIFAR10", file=sys.stderr)
        return 2
    settings = [
        f"benchmark.dataset={json.dumps(arguments.dataset)}",
        f"recipe.epochs={arguments.epochs}",
        "zoo.tasks_per_member=2",
        *arguments.set,
    ]
    names = [arguments.only] if arguments.only else CONTESTANTS
    walls = {name: [] for name in names}
    accuracies = {name: [] for name in names}
    for repeat in range(arguments.repeats):
        for name in names:
            wall, accuracy = run(name, settings)
            walls[name].append(wall)
            accuracies[name].append(accuracy)
            print(
                f"{repeat + 1}/{arguments.repeats} {name}: {wall:.1f} s, accuracy {accuracy:.4f}",
                file=sys.stderr,
            )
    result = compare(walls, accuracies, epochs=arguments.epochs)
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{key}: {value}" for key, value in result.items()))
    return 0


def run(name: str, settings: Sequence[str]) -> tuple[float, float]:
    """Grow one zoo in a process of its own: wall seconds and average accuracy."""
    words = [word for item in settings for word in ("--set", item)]
    with tempfile.TemporaryDirectory(prefix="zoo_ray_bench_") as folder:
        if name == "ours":
            store = f"{folder}/store"
            command = ["run_cluster.py", "train", CONFIG, *words, "--store", store, "--json"]
        else:
            command = ["bench/baselines.py", name, CONFIG, *words]
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        wall = time.perf_counter() - started
    return wall, json.loads(done.stdout.splitlines()[-1])["average_accuracy"]


def compare(
    walls: dict[str, list[float]], accuracies: dict[str, list[float]], *, epochs: int
) -> dict[str, float | None]:
    """Medians and their ratios; null for what was not run."""

    def median(of: dict[str, list[float]], name: str) -> float | None:
        return statistics.median(of[name]) if of.get(name) else None

    ours, plain, competent = (median(walls, name) for name in CONTESTANTS)
    result = {
        "epochs": epochs,
        "ours_s": ours,
        "plain_s": plain,
        "competent_s": competent,
        "ratio": plain / ours if plain and ours else None,
        "ratio_competent": competent / ours if competent and ours else None,
        "ours_accuracy": median(accuracies, "ours"),
        "plain_accuracy": median(accuracies, "plain"),
    }
    return {key: value and round(value, 4) for key, value in result.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument(
        "--dataset", default=os.environ.get("ZOO_RAY_CIFAR10"), help="(ZOO_RAY_CIFAR10)"
    )
    parser.add_argument("--only", choices=CONTESTANTS)
    parser.add_argument("--repeats", type=int, default=1, help="interleaved; medians are compared")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="for all, as run_cluster's"
    )
    parser.add_argument("--json", action="store_true", help="the result as stdout's last line")
    return parser


if __name__ == "__main__":
    sys.exit(main())
