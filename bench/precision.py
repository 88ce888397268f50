"""Does bfloat16 cost accuracy? Split CIFAR-10, one epoch, b = 2: the same task sets and seeds,
precision the only difference.

    python bench/precision.py --dataset parquet:PATH [--seeds 10] [--json]

`zoo.mode: uniform` draws the same tasks whatever the losses, so the zoos of a pair differ in
nothing else. Two zoos are grown at a time, each in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy.stats import t as student

ROOT = Path(__file__).resolve().parents[1]
MARGIN = 0.005
CONFIDENCE = 0.90


def main() -> None:
    """Grow the pairs and print the interval of their mean difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default=os.environ.get("ZOO_RAY_CIFAR10", "cifar10"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    zoos = [(seed, p) for seed in range(arguments.seeds) for p in ("float32", "bfloat16")]
    with tempfile.TemporaryDirectory() as store, ThreadPoolExecutor(2) as pool:
        accuracies = list(pool.map(lambda zoo: grow(*zoo, arguments.dataset, store), zoos))
    float32, bfloat16 = np.array(accuracies).reshape(-1, 2).T
    difference = bfloat16 - float32
    reach = student.ppf((1 + CONFIDENCE) / 2, len(difference) - 1)
    half = reach * difference.std(ddof=1) / np.sqrt(len(difference))
    low, high = difference.mean() - half, difference.mean() + half
    result = {
        "seeds": arguments.seeds,
        "float32": round(float32.mean(), 5),
        "bfloat16": round(bfloat16.mean(), 5),
        "difference": round(difference.mean(), 5),
        "interval": [round(low, 5), round(high, 5)],
        "settled": bool(low > -MARGIN and high < MARGIN),
    }
    print(
        f"bfloat16 - float32: {100 * difference.mean():+.2f} points, {CONFIDENCE:.0%} interval "
        f"[{100 * low:+.2f}, {100 * high:+.2f}] over {arguments.seeds} seeds",
        file=sys.stderr,
    )
    if arguments.json:
        print(json.dumps(result))


def grow(seed: int, precision: str, dataset: str, store: str) -> float:
    """Average accuracy of one zoo."""
    settings = [
        *("zoo.mode=uniform", "zoo.tasks_per_member=2", f"zoo.seed={seed}"),
        *("recipe.epochs=1", f"recipe.precision={precision}", f"benchmark.dataset={dataset}"),
    ]
    command = [sys.executable, "run_cluster.py", "train", "configs/split_cifar10.yaml", "--json"]
    command += ["--workers", "0", "--store", store, "--name", f"{precision}-{seed}"]
    command += [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    done.check_returncode()
    accuracy: float = json.loads(done.stdout)["average_accuracy"]
    print(f"seed {seed}  {precision:8}  {100 * accuracy:.2f}%", file=sys.stderr)
    return accuracy


if __name__ == "__main__":
    main()
