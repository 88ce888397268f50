"""How much faster do two workers grow one zoo than one, on this machine?

    python bench/workers.py --dataset parquet:PATH --json

The same command with other `--workers`, each into a store of its own; the time is from the first
fit's start to the last publication. The zoos must be equal.
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
CONFIG = "bench/streams/ten.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Grow the zoo with one worker and with more, in turn."""
    arguments = _parser().parse_args(argv)
    if not arguments.dataset:
        print("error: give --dataset parquet:PATH, or set ZOO_RAY_CIFAR10", file=sys.stderr)
        return 2
    settings = [f"benchmark.dataset={json.dumps(arguments.dataset)}", *arguments.set]
    times: dict[int, list[float]] = {1: [], arguments.workers: []}
    digests = set()
    for repeat in range(arguments.repeats):
        for workers in times:
            found = grow(workers, settings)
            times[workers].append(found["fits_s"])
            digests.add(found["digest"])
            print(
                f"{repeat + 1}/{arguments.repeats} {workers} workers: {found['fits_s']:.1f} s, "
                f"shortest fit {found['shortest_fit_s']:.1f} s, early {found['speculative']}",
                file=sys.stderr,
            )
    one, more = (statistics.median(times[workers]) for workers in times)
    result = {
        "workers": arguments.workers,
        "one_s": round(one, 2),
        "more_s": round(more, 2),
        "ratio": round(one / more, 3),
        "shortest_fit_s": round(found["shortest_fit_s"], 2),
        "equal": len(digests) == 1,
    }
    print(
        json.dumps(result) if arguments.json else "\n".join(f"{k}: {v}" for k, v in result.items())
    )
    return 0 if result["equal"] else 1


def grow(workers: int, settings: Sequence[str]) -> dict:
    """Grow the zoo once; its JSON, with the seconds that its fits took."""
    with tempfile.TemporaryDirectory(prefix="zoo_ray_bench_") as store:
        command = [sys.executable, "run_cluster.py", "train", CONFIG, "--store", store, "--json"]
        command += [f"--workers={workers}", *(f"--set={item}" for item in settings)]
        started = time.time()
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        pointers = list(Path(store).glob("members/*/member.json"))
        last = max(path.stat().st_mtime for path in pointers)
        fits = [json.loads(path.read_text())["fit_s"] for path in pointers]
    first = started + found["first_fit_s"]
    return found | {"fits_s": last - first, "shortest_fit_s": min(fits)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dataset", default=os.environ.get("ZOO_RAY_CIFAR10"), help="(ZOO_RAY_CIFAR10)"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="interleaved; medians are compared")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true", help="the result as stdout's last line")
    return parser


if __name__ == "__main__":
    sys.exit(main())
