"""One fit beside two baselines, trick by trick, and beside what convolution alone reaches.

    python bench/fit.py --dataset parquet:PATH --json

Every row is a process of its own; repeats are interleaved and medians shown. *Steady* is training
alone, from the end of the first epoch to the end of the last one, without predictions and
evaluations. CPU seconds include those of child processes. Convolution is measured twice: in
processes of its own, for the table, and in pauses of our fit, for the share that the fit reaches:
what else the machine does then slows both alike.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ROWS = {
    "plain": "plain: PIL, 4 loader processes",
    "competent": "competent: in memory, all cores",
    "loader": "one thread: loader, float32",
    "memory": "+ tensors in memory",
    "channels_last": "+ channels-last",
    "malloc": "+ malloc that keeps memory",
    "fused": "+ fused SGD",
    "bfloat16": "+ bfloat16",
    "ours_float32": "our fit, float32",
    "ours_bfloat16": "our fit, bfloat16",
}
FIT_KEYS = {
    "fit_s": "fit s",
    "cpu_s": "CPU s",
    "images_per_s": "images/s",
    "steady_images_per_s": "steady images/s",
    "steady_images_per_cpu_s": "steady images/CPU s",
    "predictions_per_s": "predictions/s",
}

# Convolutions: (channels in, channels out, height and width in, kernel, stride, padding).
Convolution = tuple[int, int, int, int, int, int]
SMALL_CONV = [(3, 80, 32, 3, 1, 0), (80, 80, 15, 3, 1, 0), (80, 80, 6, 3, 1, 0)]
WRN_16_4 = [
    (3, 16, 32, 3, 1, 1),
    *[(16, 64, 32, 3, 1, 1), (16, 64, 32, 1, 1, 0), *[(64, 64, 32, 3, 1, 1)] * 3],
    *[(64, 128, 32, 3, 2, 1), (64, 128, 32, 1, 2, 0), *[(128, 128, 16, 3, 1, 1)] * 3],
    *[(128, 256, 16, 3, 2, 1), (128, 256, 16, 1, 2, 0), *[(256, 256, 8, 3, 1, 1)] * 3],
]
NETWORKS = {"small_conv": (SMALL_CONV, 200), "wide_resnet_16_4": (WRN_16_4, 10)}
BATCH = 16
PAUSE_ROUNDS = 10
PRECISIONS = ("float32", "bfloat16")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every row, each in a process of its own, and compare the medians."""
    arguments = _parser().parse_args(argv)
    if not arguments.dataset:
        print("error: give --dataset parquet:PATH, or set ZOO_RAY_CIFAR10", file=sys.stderr)
        return 2
    if arguments.row:
        print(json.dumps(_measure(arguments)))
        return 0
    ours = [precision for precision in PRECISIONS if f"ours_{precision}" in arguments.rows]
    names = [*arguments.rows, *(f"convolution_{precision}" for precision in ours)]
    found: dict[str, list[dict]] = {name: [] for name in names}
    words = [f"--{key}={getattr(arguments, key)}" for key in ("dataset", "images", "epochs")]
    for repeat in range(arguments.repeats):
        for name in names:
            command = [sys.executable, __file__, "--row", name, *words]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{repeat + 1}/{arguments.repeats} {name}", file=sys.stderr)
    result = summary({name: _medians(of) for name, of in found.items()}, arguments)
    _show(result)
    if arguments.json:
        print(json.dumps(result))
    return 0


def summary(medians: dict[str, dict], arguments: argparse.Namespace) -> dict:
    """The measurements and what follows from them, as `--json` prints it.

    `of_roofline` is the steady training rate per CPU second over the convolution rate in pauses of
    the same fit: of ours, for each precision. `ratio` and `ratio_competent` are wall seconds of
    the whole fit over those of ours in the precision that pays here. What was not measured is null.
    """
    rows = {name: medians[name] for name in ROWS if name in medians}
    roofline = {
        network: {
            "mflop_per_image": flop(convolutions) / 1e6,
            **{
                precision: {
                    "gflop_per_s": rate and flop(convolutions) / 1e9 * rate,
                    "images_per_s": rate,
                }
                for precision in PRECISIONS
                for rate in [medians.get(f"convolution_{precision}", {}).get(network)]
            },
        }
        for network, (convolutions, _) in NETWORKS.items()
    }

    def fit_s(name: str) -> float | None:
        return rows[name]["fit_s"] if name in rows else None

    def of_roofline(precision: str) -> float | None:
        return rows.get(f"ours_{precision}", {}).get("of_roofline")

    ours_s = fit_s("ours_bfloat16" if _bfloat16_pays() else "ours_float32")
    plain_s, competent_s = fit_s("plain"), fit_s("competent")
    result = {
        "images": 2 * arguments.images,
        "epochs": arguments.epochs,
        "ratio": plain_s and ours_s and plain_s / ours_s,
        "ratio_competent": competent_s and ours_s and competent_s / ours_s,
        "of_roofline": {precision: of_roofline(precision) for precision in PRECISIONS},
        "rows": rows,
        "roofline": roofline,
    }
    return _rounded(result)


def flop(convolutions: Sequence[Convolution]) -> int:
    """Operations of one image, forward and backward; the first convolution's input takes no
    gradient. A multiplication and its addition are two operations."""
    total = 0
    for number, (inputs, outputs, size, kernel, stride, padding) in enumerate(convolutions):
        out = (size + 2 * padding - kernel) // stride + 1
        passes = 3 if number else 2
        total += passes * 2 * inputs * outputs * kernel**2 * out**2
    return total


# ---- in a row's own process


def _measure(arguments: argparse.Namespace) -> dict[str, float | None]:
    kind, _, precision = arguments.row.partition("_")
    if kind == "convolution":
        return {
            network: BATCH / statistics.median(_seconds(_calls(convolutions, precision), rounds))
            for network, (convolutions, rounds) in NETWORKS.items()
        }
    fit, tasks = _fit(arguments)
    train = sum(len(task.train) for task in tasks)
    predicted = train + sum(len(task.test) for task in tasks)
    convolve = _calls(SMALL_CONV, precision) if kind == "ours" else []
    convolved: list[float] = []  # seconds of each round, while training is steady
    marks = []
    paused_s, paused_cpu_s = 0.0, 0.0

    def now() -> tuple[float, float]:
        return time.perf_counter() - paused_s, _cpu_s() - paused_cpu_s

    def mark(epochs_done: float) -> None:
        nonlocal paused_s, paused_cpu_s
        if marks and epochs_done <= marks[-1][0]:  # a fit that predicts tells of its last epoch
            return
        marks.append((epochs_done, *now()))
        if convolve and min(1, arguments.epochs - 1) <= epochs_done < arguments.epochs:
            before, cpu_before = now()
            convolved.extend(_seconds(convolve, PAUSE_ROUNDS))
            after, cpu_after = now()
            paused_s += after - before
            paused_cpu_s += cpu_after - cpu_before

    mark(0)
    fit(mark)
    ended, cpu_ended = now()
    (_, started, cpu_started), last = marks[0], marks[-1]
    first = next(found for found in marks if found[0] >= 1 or found is last)
    if first is last:  # one epoch: all of it
        first = marks[0]
    trained = (last[0] - first[0]) * train
    steady = trained / (last[2] - first[2])
    # The loader's rows do more after training than to predict.
    predicts = arguments.row not in ("plain", "loader")
    return {
        "fit_s": ended - started,
        "cpu_s": cpu_ended - cpu_started,
        "images_per_s": arguments.epochs * train / (ended - started),
        "steady_images_per_s": trained / (last[1] - first[1]),
        "steady_images_per_cpu_s": steady,
        "predictions_per_s": predicted / (ended - last[1]) if predicts else None,
        # Means on both sides, as a disturbance lengthens either.
        "of_roofline": steady * statistics.mean(convolved) / BATCH if convolved else None,
    }


def _fit(arguments: argparse.Namespace) -> tuple[Callable, list]:
    """A row's fit, ready to be called with what is to hear of epochs, and its tasks."""
    import warnings

    import torch
    from baselines import COMPETENT, Loop, loop_fit, plain_fit

    from zoo_ray.benchmarks import load_stream
    from zoo_ray.config import BenchmarkConfig
    from zoo_ray.members.fit import fit
    from zoo_ray.members.spec import MemberSpec, Recipe, TaskShare
    from zoo_ray.task import Part, Task

    warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)

    def first(part: Part, samples: int) -> Part:
        return Part(part.images[:samples], part.labels[:samples])

    benchmark = BenchmarkConfig(dataset=arguments.dataset, tasks=[[0, 1], [2, 3]])
    tasks = [
        Task(
            name=task.name,
            classes=task.classes,
            train=first(task.train, arguments.images),
            validation=first(task.validation, 0),
            test=first(task.test, arguments.images // 5),
        )
        for task in load_stream(benchmark)
    ]
    row = arguments.row
    augmented = arguments.epochs > 1
    recipe = Recipe(
        network="small_conv",
        epochs=arguments.epochs,
        batch=BATCH,
        lr=0.01,
        l2=1e-5,
        crop=augmented,
        flip=augmented and tasks[0].image_shape[2] == 3,
        precision="bfloat16" if row == "ours_bfloat16" else "float32",
        threads=1,
    )
    if row.startswith("ours_"):
        shares = tuple(TaskShare(task.digest) for task in tasks)
        spec = MemberSpec(tasks=shares, recipe=recipe, seed=0)

        def ours(mark: Callable[[float], None]) -> None:
            fit(spec=spec, tasks=tasks, on_progress=lambda progress: mark(progress.epochs_done))

        return ours, tasks
    if row in ("plain", "loader"):
        if row == "loader":
            torch.set_num_threads(1)
        baseline = partial(plain_fit, evaluations=row == "plain")
    else:
        tricks = {"memory": 0, "channels_last": 1, "malloc": 2, "fused": 3, "bfloat16": 4}
        names = ("channels_last", "keep_memory", "fused", "bfloat16")
        on = dict.fromkeys(names[: tricks.get(row, 0)], True)
        loop = COMPETENT if row == "competent" else Loop(threads=1, **on)
        baseline = partial(loop_fit, loop=loop)
    return lambda mark: baseline(tasks, recipe, seed=0, on_epoch=mark), tasks


def _calls(convolutions: Sequence[Convolution], precision: str) -> list[Callable]:
    """Nothing but a network's convolutions, forward and then backward, in a batch as a fit's:
    channels-last, one thread, memory kept."""
    import torch
    from baselines import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(1)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)

    forward, backward = [], []
    for number, (inputs, outputs, size, kernel, stride, padding) in enumerate(convolutions):
        images = random(BATCH, inputs, size, size)
        weights = random(outputs, inputs, kernel, kernel)
        how = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
        forward.append(partial(torch.ops.aten.convolution, images, weights, None, *how))
        gradient = torch.randn_like(forward[-1]())
        wanted = [number > 0, True, False]
        backward.append(
            partial(
                torch.ops.aten.convolution_backward, gradient, images, weights, None, *how, wanted
            )
        )
    return [*forward, *reversed(backward)]


def _seconds(calls: Sequence[Callable], rounds: int) -> list[float]:
    """CPU seconds of this thread for each of so many rounds of the calls, warm."""
    import torch

    seconds = []
    with torch.inference_mode():
        for _ in range(rounds + 3):
            started = time.thread_time()
            for call in calls:
                call()
            seconds.append(time.thread_time() - started)
    return seconds[3:]


def _cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


# ---- numbers for people


def _bfloat16_pays() -> bool:
    from zoo_ray.members.hardware import resolve_precision

    return resolve_precision(gpu=False) == "bfloat16"


def _medians(found: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    return {
        key: None if value is None else statistics.median(one[key] for one in found)
        for key, value in found[0].items()
    }


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _show(result: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    people = Console(stderr=True, width=120)
    fits = Table(title=f"Fits of {result['images']} images, {result['epochs']} epochs")
    fits.add_column("row")
    for title in FIT_KEYS.values():
        fits.add_column(title, justify="right")
    for name, row in result["rows"].items():
        fits.add_row(ROWS[name], *(_text(row[key]) for key in FIT_KEYS))
    rooflines = Table(title="Convolution alone, one thread, batch 16, forward and backward")
    for title in ("network", "MFLOP/image", "precision", "GFLOP/s", "images/s", "our fit / this"):
        rooflines.add_column(title, justify="left" if title == "network" else "right")
    for network, found in result["roofline"].items():
        for precision, share in result["of_roofline"].items():
            if not found[precision]["images_per_s"]:
                continue
            rooflines.add_row(
                *(network, f"{found['mflop_per_image']:,.1f}", precision),
                *(_text(found[precision][key]) for key in ("gflop_per_s", "images_per_s")),
                f"{share:.0%}" if share and network == "small_conv" else "",
            )
    people.print(fits)
    people.print(rooflines)
    for name in ("ratio", "ratio_competent"):
        people.print(f"{name} (wall seconds over ours): {_text(result[name])}")


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dataset", default=os.environ.get("ZOO_RAY_CIFAR10"), help="(ZOO_RAY_CIFAR10)"
    )
    parser.add_argument("--images", type=int, default=2000, help="of each of the two tasks")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="interleaved; medians are shown")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--json", action="store_true", help="the result as stdout's last line")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # one row, in this process
    return parser


if __name__ == "__main__":
    sys.exit(main())
