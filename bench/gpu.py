"""A GPU's steps, trick by trick; several members at once on it; and whole zoos.

    python bench/gpu.py --json                            # made-up images: torch and numpy suffice
    python bench/gpu.py --only zoo --dataset parquet:PATH # CIFAR-10, with the project's packages

Sections (`--only`): `roofline` (what copies and matrix products reach here), `kernels` (in which of
them a step spends its time, and the GPU's clocks meanwhile), `steps` (milliseconds of a step,
interleaved, medians of `--repeats`), `together` (steps per second of several members at once, in
threads of one process and in processes), `exact` (whether graphs, steps without graphs and members
beside others have the same bits), `memory` (predicted and taken), `zoo` (`--zoo` contenders on
Split-CIFAR10, all seeds at once).
"""

import argparse
import copy
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch.nn import functional

from zoo_ray.members import fit as fit_module
from zoo_ray.members.augment import PAD, Shifts, crop_and_flip, normalise
from zoo_ray.members.fit import fit
from zoo_ray.members.graphs import STEPS_AT_ONCE, GraphedSteps
from zoo_ray.members.memory import needed_memory
from zoo_ray.members.predict import torch_settings
from zoo_ray.members.spec import MemberSpec, Recipe, TaskShare
from zoo_ray.members.training import Training, TrainingSet
from zoo_ray.networks import build_network, on_gpu
from zoo_ray.networks.heads import MultiHead
from zoo_ray.rules import Rules
from zoo_ray.task import Part, Task
from zoo_ray.zoo.growth import Growth, Wanted

SECTIONS = ("roofline", "kernels", "steps", "together", "exact", "memory", "zoo")
NETWORKS = ("small_conv", "wrn16_4")
BATCHES = (16, 128)
# Each row has the tricks of those before it, too.
TRICKS = {
    "plain": "plain: host tensors, fp16 with a scaler, losses read",
    "resident": "+ data and augmentation on the device",
    "heads": "+ heads gathered, metrics kept on the device",
    "bfloat16": "+ bfloat16 without a scaler",
    "channels_last": "+ channels-last",
    "fused": "+ fused SGD",
    "ours_eager": "our steps, one by one",
    "graphs": "+ CUDA graphs",
    "ours": "+ norm, pooling and ReLU as kernels of ours",
    "free": "the same, if bits need not come again",
}
TOGETHER = (1, 2, 4, 8, 16)
DEVICE = "cuda"
usual_kernels = on_gpu.kernels


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the sections asked for."""
    arguments = _parser().parse_args(argv)
    if not torch.cuda.is_available():
        print("error: torch finds no GPU here", file=sys.stderr)
        return 2
    if arguments.process:
        print(json.dumps(_steady(arguments.process, 16, float(arguments.seconds))))
        return 0
    if "zoo" in arguments.only and not arguments.dataset:
        print("error: give --dataset parquet:PATH, or set ZOO_RAY_CIFAR10", file=sys.stderr)
        return 2
    result = {
        "gpu": torch.cuda.get_device_name(),
        "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1),
        "torch": torch.__version__,
    }
    for section in arguments.only:
        started = time.perf_counter()
        result[section] = globals()[section](arguments)
        took = time.perf_counter() - started
        print(f"{section} ({took:.0f} s): {json.dumps(result[section])}", flush=True)
    if arguments.json:
        print(json.dumps(result))
    return 0


# ---- what the machine reaches


def roofline(_: argparse.Namespace) -> dict[str, float]:
    """A copy of 4 GB, bytes read and written; a product of matrices of 8,192."""
    source = torch.randn(1 << 29, device=DEVICE).view(torch.bfloat16)
    target = torch.empty_like(source)
    copy_s = _timed(lambda: target.copy_(source), times=10)
    left, right = (torch.randn(8192, 8192, device=DEVICE).bfloat16() for _ in range(2))
    product_s = _timed(lambda: left @ right, times=10)
    return {
        "copy_tb_per_s": round(2 * source.nbytes / copy_s / 1e12, 2),
        "bfloat16_tflop_per_s": round(2 * 8192**3 / product_s / 1e12),
    }


def _timed(work: Callable[[], object], *, times: int) -> float:
    for _ in range(3):
        work()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / times


# ---- steps


def kernels(arguments: argparse.Namespace) -> dict[str, dict]:
    """For each network at batch 16: kernels of a step, microseconds of each, and the GPU's clocks
    while it takes steps."""
    from torch.profiler import ProfilerActivity, profile

    table = {}
    for network in arguments.networks:
        with torch_settings(threads=1), torch.cuda.stream(torch.cuda.Stream()):
            taking = _our_steps(network, 16, capture=True)
            _take(taking, 300)
            asked = "--query-gpu=clocks.sm,clocks.mem,pstate", "--format=csv,noheader"
            smi = subprocess.Popen(["nvidia-smi", *asked], stdout=subprocess.PIPE, text=True)
            while smi.poll() is None:
                next(taking)
            torch.cuda.synchronize()
            with profile(activities=[ProfilerActivity.CUDA]) as profiled:
                steps = _take(taking, 10 * STEPS_AT_ONCE)
                torch.cuda.synchronize()
        events = [event for event in profiled.key_averages() if event.self_device_time_total]
        events.sort(key=lambda event: -event.self_device_time_total)
        table[network] = {
            "clocks": smi.stdout.read().strip(),
            "kernels_per_step": sum(event.count for event in events) / steps,
            "us_per_step": {
                event.key[:80]: round(event.self_device_time_total / steps, 2)
                for event in events[:30]
            },
        }
    return table


def steps(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds of a step, by network and batch, then by row; and plain over ours."""
    table = {}
    for network in arguments.networks:
        for batch in arguments.batches:
            found: dict[str, list[float]] = {row: [] for row in TRICKS}
            for _ in range(arguments.repeats):
                for row in TRICKS:
                    found[row].append(1e3 * _step_s(row, network, batch))
            medians = {row: round(statistics.median(all_of), 4) for row, all_of in found.items()}
            medians["ratio"] = round(medians["plain"] / medians["ours"], 1)
            print(network, batch, medians, file=sys.stderr)
            table[f"{network} {batch}"] = medians
    return table


def _step_s(row: str, network: str, batch: int) -> float:
    is_graphed = row in ("graphs", "ours", "free")
    is_ours = is_graphed or row == "ours_eager"
    on_gpu.kernels = usual_kernels if row in ("ours", "free") else lambda _: None
    if is_ours:
        taking = _our_steps(network, batch, capture=is_graphed)
    else:
        taking = _plain_steps(row, network, batch)
    settings = torch_settings(threads=1) if is_ours else nullcontext()
    with settings, torch.cuda.stream(torch.cuda.Stream()):
        if row == "free":  # until the settings are put back
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
        _take(taking, _until_captured(batch) if is_graphed else 30)
        torch.cuda.synchronize()
        started = time.perf_counter()
        taken = _take(taking, 1000 if is_graphed else 60)
        torch.cuda.synchronize()
        took_s = time.perf_counter() - started
    on_gpu.kernels = usual_kernels
    return took_s / taken


def _until_captured(batch: int) -> int:
    """Steps of two epochs: the graph of an epoch's end is captured in the second."""
    return 2 * math.ceil(sum(len(task.train) for task in _tasks()) / batch)


def _take(taking: Iterator[int], steps: int) -> int:
    """Take so many steps, or a few more; how many."""
    taken = 0
    while taken < steps:
        taken += next(taking)
    return taken


@cache
def _made_up(samples: int = 5_000, number: int = 0) -> Task:
    drawn = np.random.default_rng(number)

    def part(count: int) -> Part:
        images = drawn.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        return Part(images, drawn.integers(0, 2, count))

    classes = ("0", "1")
    return Task(f"task {number}", classes, part(samples), part(0), part(samples // 5))


def _tasks(count: int = 2) -> list[Task]:
    return [_made_up(number=number) for number in range(count)]


def _spec(tasks: Sequence[Task], network: str, batch: int, *, epochs: int, seed: int) -> MemberSpec:
    recipe = Recipe(
        network=network,
        epochs=epochs,
        batch=batch,
        lr=0.01,
        l2=1e-5,
        crop=True,
        flip=True,
        precision="bfloat16",
        threads=1,
    )
    return MemberSpec(tuple(TaskShare(task.digest) for task in tasks), recipe, seed)


def _network(spec: MemberSpec, tasks: Sequence[Task]) -> MultiHead:
    torch.manual_seed(spec.seed)
    classes = [len(task.classes) for task in tasks]
    return build_network(spec.recipe.network, image_shape=(32, 32, 3), classes=classes)


def _our_steps(network: str, batch: int, *, capture: bool, seed: int = 0) -> Iterator[int]:
    """Takes steps; how many, each time."""
    tasks = _tasks()
    spec = _spec(tasks, network, batch, epochs=10_000, seed=seed)
    net = _network(spec, tasks).to(DEVICE).to(memory_format=torch.channels_last).train()
    training = Training(net, spec)
    data = TrainingSet(net, spec, tasks)
    taken = GraphedSteps(training, data, capture=capture)
    for epoch in range(10_000):
        before = 0
        for done in taken.epoch(epoch=epoch, first=0):
            yield done - before
            before = done
        training.end_epoch(training.loss_sum.item())


def _plain_steps(row: str, network: str, batch: int) -> Iterator[int]:
    """A loop as one writes it, with the tricks up to a row."""
    has = {trick: list(TRICKS).index(trick) <= list(TRICKS).index(row) for trick in TRICKS}
    tasks = _tasks()
    spec = _spec(tasks, network, batch, epochs=1, seed=0)
    net = _network(spec, tasks).to(DEVICE).train()
    if has["channels_last"]:
        net = net.to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        *(net.parameters(), 0.01, 0.9),
        nesterov=True,
        weight_decay=1e-5,
        fused=has["fused"],
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 10_000)
    place = DEVICE if has["resident"] else "cpu"
    data = TrainingSet(net, spec, tasks)
    images, heads, targets = (t.to(place) for t in (data.images, data.heads, data.targets))
    dtype = torch.bfloat16 if has["bfloat16"] else torch.float16
    scaler = torch.amp.GradScaler(DEVICE, enabled=not has["bfloat16"])
    loss_sum = torch.zeros((), device=DEVICE)
    while True:
        rows = torch.randint(len(targets), (batch,), device=place)
        top, left = (torch.randint(2 * PAD + 1, (batch,), device=place) for _ in range(2))
        shifts = Shifts(top, left, torch.rand(batch, device=place) < 0.5)
        batch_images = normalise(crop_and_flip(images, rows, shifts)).to(DEVICE)
        if not has["channels_last"]:
            batch_images = batch_images.contiguous()
        batch_heads, batch_targets = heads[rows].to(DEVICE), targets[rows].to(DEVICE)
        with torch.autocast(DEVICE, dtype=dtype):
            features = net.trunk(batch_images)
        if has["heads"]:
            logits = net.logits(features, heads=batch_heads)
        else:
            logits = _by_head(net, features, batch_heads)
        loss = functional.cross_entropy(logits, batch_targets)
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        schedule.step()
        if has["heads"]:
            loss_sum += loss.detach() * batch
        else:
            loss.item()
            (logits.argmax(dim=1) == batch_targets).sum().item()
        yield 1


def _by_head(net: MultiHead, features: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    logits = torch.full((len(features), net.rows[-1].stop), -torch.inf, device=DEVICE)
    for head, columns in enumerate(net.rows):
        rows = torch.nonzero(heads == head).view(-1)
        if len(rows):
            logits[rows, columns] = net.head_logits(features[rows], head=head)
    return logits


# ---- several members at once


def together(arguments: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Steps per second in sum, of so many members at once, and over those of one: in threads of one
    process, each with a stream; and in processes that share the GPU."""
    table = {}
    for network in arguments.networks:
        for batch in arguments.batches:
            rates = {str(count): _in_threads(network, batch, count) for count in TOGETHER}
            print(network, batch, rates, file=sys.stderr)
            if batch == 16:
                rates["4 processes"] = _in_processes(network, 4)
            one = rates["1"]
            table[f"{network} {batch}"] = {
                key: {"steps_per_s": round(rate), "times": round(rate / one, 2)}
                for key, rate in rates.items()
            }
    return table


def _in_threads(network: str, batch: int, count: int, seconds: float = 1.5) -> float:
    _tasks()
    ready, over = threading.Barrier(count + 1), threading.Event()
    taken = [0] * count

    def work(number: int) -> None:
        with torch_settings(threads=1), torch.cuda.stream(torch.cuda.Stream()):
            taking = _our_steps(network, batch, capture=True, seed=number)
            _take(taking, _until_captured(batch))
            torch.cuda.current_stream().synchronize()
            ready.wait()
            while not over.is_set():
                steps = _take(taking, 50)
                torch.cuda.current_stream().synchronize()
                taken[number] += steps

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    time.sleep(seconds)
    over.set()
    for thread in threads:
        thread.join()
    return sum(taken) / (time.perf_counter() - started)


def _steady(network: str, batch: int, until: float) -> float:
    """Steps per second of one member, measured up to a time of the clock."""
    with torch_settings(threads=1), torch.cuda.stream(torch.cuda.Stream()):
        taking = _our_steps(network, batch, capture=True)
        _take(taking, _until_captured(batch))
        torch.cuda.synchronize()
        time.sleep(max(0.0, until - 2.0 - time.time()))  # all begin together
        started, taken = time.perf_counter(), 0
        while time.time() < until:
            steps = _take(taking, 50)
            torch.cuda.synchronize()
            taken += steps
        return taken / (time.perf_counter() - started)


def _in_processes(network: str, count: int) -> float:
    until = time.time() + 14
    command = [sys.executable, __file__, "--process", network, "--seconds", str(until)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return sum(float(one.communicate()[0].splitlines()[-1]) for one in running)


# ---- bits, memory


def exact(_: argparse.Namespace) -> dict[str, dict]:
    """Whether a member has the same bits again, without graphs, cut short, and beside others."""
    tasks = [_made_up(1_500, 10), _made_up(1_000, 11)]
    found = {"kernels": _kernels_error()}
    cases = [*((network, "bfloat16") for network in NETWORKS), ("small_conv", "float32")]
    for network, precision in cases:
        specs = []
        for seed in range(4):
            spec = _spec(tasks, network, 16, epochs=2, seed=seed)
            specs.append(replace(spec, recipe=replace(spec.recipe, precision=precision)))
        bits_of = partial(_bits, tasks=tasks)
        alone = [bits_of(spec) for spec in specs]
        with ThreadPoolExecutor(len(specs)) as pool:
            beside = list(pool.map(bits_of, specs))
        usual = fit_module.GraphedSteps
        fit_module.GraphedSteps = partial(usual, capture=False)
        try:
            without = bits_of(specs[0])
        finally:
            fit_module.GraphedSteps = usual
        found[f"{network} {precision}"] = {
            "again": bits_of(specs[0]) == alone[0],
            "without_graphs": without == alone[0],
            "cut_short": bits_of(specs[0], cut=True) == alone[0],
            "beside_others": beside == alone,
        }
        print(found, file=sys.stderr)
    return found


def _kernels_error() -> dict[str, float]:
    """How far our kernels are from torch's operators in float32: the largest of ||ours - theirs|| /
    ||theirs|| over results, gradients and statistics."""
    errors = {}
    for pool, shape in (
        (True, (16, 80, 13, 13)),
        (False, (16, 64, 32, 32)),
        (True, (9, 48, 30, 31)),
    ):
        torch.manual_seed(0)
        usual = torch.nn.BatchNorm2d(shape[1], device=DEVICE)
        torch.nn.init.uniform_(usual.weight, -1, 1)
        torch.nn.init.uniform_(usual.bias, -1, 1)
        ours = copy.deepcopy(usual)
        x = torch.randn(shape, device=DEVICE).contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        bias = torch.randn(shape[1], device=DEVICE)
        expected = usual(x + bias[:, None, None])
        expected = (functional.max_pool2d(expected, 2) if pool else expected).relu()
        kernels = usual_kernels(x)
        if kernels is None:
            return {"no kernels": torch.nan}
        found = kernels.norm_relu(x, ours, pool=pool, bias=bias)
        grad = torch.randn_like(expected)
        pairs = [(found, expected), *zip(ours.buffers(), usual.buffers(), strict=True)]
        pairs += zip(
            torch.autograd.grad(found, [x, *ours.parameters()], grad),
            torch.autograd.grad(expected, [x, *usual.parameters()], grad),
            strict=True,
        )
        errors[f"pool {pool} {shape}"] = max(
            ((a.float() - b.float()).norm() / b.float().norm()).item() for a, b in pairs
        )
    return errors


def _bits(spec: MemberSpec, tasks: Sequence[Task], *, cut: bool = False) -> str:
    resume = None
    if cut:
        checkpoints = []
        fit(
            spec=spec,
            tasks=tasks,
            device=DEVICE,
            checkpoint_s=0,
            on_checkpoint=checkpoints.append,
        )
        resume = checkpoints[len(checkpoints) // 2]
        assert resume.step, "the fit was too short to be cut"
    member = fit(spec=spec, tasks=tasks, device=DEVICE, resume=resume)
    state = hashlib.sha256(repr(member.epoch_losses).encode())
    for array in member.weights.values():
        state.update(np.ascontiguousarray(array).tobytes())
    for prediction in member.predictions:
        for array in prediction.values():
            state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def memory(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Megabytes that a fit is said to take, and that it takes."""
    table = {}
    tasks = _tasks()
    for network in arguments.networks:
        for batch in arguments.batches:
            spec = _spec(tasks, network, batch, epochs=1, seed=0)
            said = needed_memory(spec, tasks)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_reserved()
            fit(spec=spec, tasks=tasks, device=DEVICE)
            taken = torch.cuda.max_memory_reserved() - before
            table[f"{network} {batch}"] = {
                "least_mb": said.least >> 20,
                "most_mb": said.most >> 20,
                "taken_mb": taken >> 20,
            }
    return table


# ---- zoos


def zoo(arguments: argparse.Namespace) -> dict[str, object]:
    """Grow zoos on Split-CIFAR10, all at once, each spec once; average accuracy of each."""
    from zoo_ray.benchmarks import load_stream
    from zoo_ray.config import BenchmarkConfig

    pairs = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    tasks = list(load_stream(BenchmarkConfig(dataset=arguments.dataset, tasks=pairs)))
    recipe = _spec([], arguments.network, 16, epochs=arguments.epochs, seed=0).recipe
    growths = {}
    for name in arguments.zoo:
        for seed in range(arguments.seeds):
            mode = "continual" if name.startswith("b") else name
            b = int(name[1:]) if name.startswith("b") else 1
            rules = Rules(
                tasks=len(tasks), mode=mode, seed=seed, tasks_per_member=b, members_per_episode=1
            )
            growths[name, seed] = Growth(
                tasks=[task.without_images() for task in tasks], rules=rules, recipe=recipe
            )
    started = time.perf_counter()
    fits = _grow(list(growths.values()), tasks, together=arguments.together)
    wall_s = time.perf_counter() - started
    accuracies: dict[str, list[float]] = {name: [] for name in arguments.zoo}
    for (name, _), growth in growths.items():
        accuracies[name].append(growth.metrics("test").average_accuracy)
    return {
        "network": arguments.network,
        "epochs": arguments.epochs,
        "together": arguments.together,
        "wall_s": round(wall_s, 1),
        "fits": len(fits),
        "images_per_s": round(sum(fits) * arguments.epochs / wall_s),
        "accuracy": {
            name: {
                "mean": round(100 * statistics.mean(found), 2),
                "sd": round(100 * statistics.stdev(found), 2) if len(found) > 1 else None,
                "seeds": [round(100 * value, 2) for value in found],
            }
            for name, found in accuracies.items()
        },
    }


def _grow(growths: Sequence[Growth], tasks: Sequence[Task], *, together: int) -> list[int]:
    """Fit whatever any of the zoos wants, so many at once; samples of each fit."""
    running: dict[Future, str] = {}
    fitted: dict[str, list] = {}
    samples = []
    with ThreadPoolExecutor(together) as pool:
        while any(not growth.finished for growth in growths):
            # The longest first, lest they are alone at the end.
            for wanted in sorted(_wanted(growths, fitted), key=lambda one: -one.samples):
                if wanted.spec.digest not in running.values():
                    chosen = [tasks[position] for position in wanted.tasks]
                    future = pool.submit(fit, spec=wanted.spec, tasks=chosen, device=DEVICE)
                    running[future] = wanted.spec.digest
                    samples.append(wanted.samples)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                fitted[running.pop(future)] = future.result().predictions
            _wanted(growths, fitted)
    return samples


def _wanted(growths: Sequence[Growth], fitted: dict[str, list]) -> list[Wanted]:
    """What the zoos want that is not fitted, once they have all that is."""
    waiting = []
    for growth in growths:
        new = True
        while new:
            new = [one for one in growth.wanted() if one.spec.digest in fitted]
            for one in new:
                digest = one.spec.digest
                growth.deliver(digest, fitted[digest], predictions_sha256=digest)
        waiting += growth.wanted()
    return waiting


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS[:-1])
    parser.add_argument(
        "--networks", nargs="+", default=NETWORKS, help="of steps, together, memory"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="of the same")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dataset", default=os.environ.get("ZOO_RAY_CIFAR10"))
    parser.add_argument("--zoo", nargs="+", default=["b2"], help="bN, isolated, multihead")
    parser.add_argument("--network", default="small_conv", help="of zoo")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--together", type=int, default=8, help="members at once, of zoo")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object as the last line"
    )
    parser.add_argument("--process", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
