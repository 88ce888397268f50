"""Two ways to grow a Split-CIFAR10 zoo without zoo_ray's fits, to measure zoo_ray against.

`plain` is written in the style of the original ModelZoo code, `competent` as somebody would who
knows PyTorch. The network is written anew, so that neither gains from what zoo_ray's does. Which
tasks a member is fitted on is decided by zoo_ray's algorithm from the baseline's own predictions.

`bench/zoo.py` runs it; alone it needs the repository's root in PYTHONPATH.
"""

import argparse
import ctypes
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torchvision import transforms

from zoo_ray.config import read_config
from zoo_ray.members.spec import Recipe
from zoo_ray.plan import plan_run
from zoo_ray.task import Part, Predictions, Task

PAD = 4
LOADER_PROCESSES = 4
OnEpoch = Callable[[int], None]


class SmallNet(nn.Module):
    """The paper's small network, with one linear layer per task."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        height, width, channels = tasks[0].image_shape
        for _ in range(3):
            height, width = (height - 2) // 2, (width - 2) // 2
        self.conv1 = nn.Conv2d(channels, 80, 3, bias=False)
        self.conv2 = nn.Conv2d(80, 80, 3)
        self.bn2 = nn.BatchNorm2d(80)
        self.conv3 = nn.Conv2d(80, 80, 3)
        self.bn3 = nn.BatchNorm2d(80)
        self.classes = len(tasks[0].classes)  # the same for all, as in the original
        self.heads = nn.ModuleList(nn.Linear(80 * height * width, self.classes) for _ in tasks)

    def forward(self, images: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
        """Logits of each image's own head, shape (batch, classes)."""
        x = functional.max_pool2d(functional.relu(self.conv1(images)), 2)
        x = functional.max_pool2d(functional.relu(self.bn2(self.conv2(x))), 2)
        x = functional.max_pool2d(functional.relu(self.bn3(self.conv3(x))), 2)
        x = x.flatten(1)
        logits = x.new_zeros(len(x), self.classes)
        for task, head in enumerate(self.heads):
            rows = torch.nonzero(tasks == task).view(-1)
            if len(rows):
                logits.index_add_(0, rows, head(x[rows]))
        return logits


def new_optimiser(
    network: nn.Module, recipe: Recipe, *, steps: int, fused: bool = False
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """SGD with a cosine schedule over all steps of the fit."""
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=recipe.lr,
        momentum=0.9,
        nesterov=True,
        weight_decay=recipe.l2,
        fused=fused,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs * steps)
    return optimiser, schedule


# ---- plain


class TaskImages(Dataset):
    """A part of a task, image by image through PIL and torchvision, with its task and label."""

    def __init__(self, part: Part, transform: transforms.Compose, *, task: int) -> None:
        self.part, self.transform, self.task = part, transform, task

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int, int]:
        image = Image.fromarray(self.part.images[row].squeeze())
        return self.transform(image), self.task, int(self.part.labels[row])


def plain_fit(
    tasks: Sequence[Task],
    recipe: Recipe,
    *,
    seed: int,
    on_epoch: OnEpoch = lambda _: None,
    evaluations: bool = True,
) -> list[Predictions]:
    """A fit in the style of the original: a `DataLoader` with new processes for every pass,
    losses read at every step, train and test of every task evaluated before and after.

    Args:
        tasks: the member's tasks.
        recipe: how to fit; its network, precision and threads are not read.
        seed: of weights, order and augmentation.
        on_epoch: called after each epoch with the number done.
        evaluations: whether to evaluate, and to predict in the end; else there is no result.
    """
    torch.manual_seed(seed)
    size = tasks[0].image_shape[:2]
    clean = [transforms.ToTensor(), transforms.Normalize([0.5], [0.25])]
    crop = [transforms.RandomCrop(size, padding=PAD)] if recipe.crop else []
    flip = [transforms.RandomHorizontalFlip()] if recipe.flip else []
    augmented = transforms.Compose([*crop, *flip, *clean])
    train = ConcatDataset(
        [TaskImages(task.train, augmented, task=head) for head, task in enumerate(tasks)]
    )
    parts = [
        {
            name: TaskImages(part, transforms.Compose(clean), task=head)
            for name, part in task.parts()
        }
        for head, task in enumerate(tasks)
    ]
    network = SmallNet(tasks)
    loader = _loader(train, batch=recipe.batch, shuffle=True)
    optimiser, schedule = new_optimiser(network, recipe, steps=len(loader))
    if evaluations:
        _evaluate(network, parts, batch=recipe.batch)
    for epoch in range(recipe.epochs):
        network.train()
        loss_sum, correct = 0.0, 0
        for images, heads, labels in loader:
            optimiser.zero_grad()
            logits = network(images, heads)
            loss = functional.cross_entropy(logits, labels)
            loss.backward()
            optimiser.step()
            schedule.step()
            loss_sum += loss.item() * len(labels)
            correct += (logits.argmax(dim=1) == labels).sum().item()
        on_epoch(epoch + 1)
    if not evaluations:
        return []
    _evaluate(network, parts, batch=recipe.batch)
    return [
        {name: _plain_predictions(network, part) for name, part in task.items()} for task in parts
    ]


def _loader(dataset: Dataset, *, batch: int, shuffle: bool = False) -> DataLoader:
    return DataLoader(dataset, batch_size=batch, shuffle=shuffle, num_workers=LOADER_PROCESSES)


@torch.inference_mode()
def _evaluate(
    network: SmallNet, parts: Sequence[dict[str, TaskImages]], *, batch: int
) -> list[tuple[float, float]]:
    """Mean loss and accuracy of each task's train and test part."""
    network.eval()
    results = []
    for part in (task[name] for task in parts for name in ("train", "test")):
        loss_sum, correct = 0.0, 0
        for images, heads, labels in _loader(part, batch=batch):
            logits = network(images, heads)
            loss_sum += functional.cross_entropy(logits, labels).item() * len(labels)
            correct += (logits.argmax(dim=1) == labels).sum().item()
        results.append((loss_sum / len(part), correct / len(part)))
    return results


@torch.inference_mode()
def _plain_predictions(network: SmallNet, part: TaskImages) -> np.ndarray:
    network.eval()
    rows = [np.zeros((0, network.classes), dtype=np.float32)]
    if len(part):
        rows += [
            functional.softmax(network(images, heads), dim=1).numpy()
            for images, heads, _ in _loader(part, batch=100)
        ]
    return np.concatenate(rows)


# ---- competent


@dataclass(frozen=True)
class Loop:
    """What a loop over tensors in memory makes use of.

    Attributes:
        threads: torch threads.
        channels_last: images and weights with channels innermost in memory.
        keep_memory: glibc's malloc keeps what is freed, for the next step.
        fused: SGD as one operation for all parameters.
        bfloat16: autocast.
    """

    threads: int
    channels_last: bool = False
    keep_memory: bool = False
    fused: bool = False
    bfloat16: bool = False


COMPETENT = Loop(threads=os.cpu_count() or 1, channels_last=True)


def loop_fit(
    tasks: Sequence[Task],
    recipe: Recipe,
    *,
    seed: int,
    on_epoch: OnEpoch = lambda _: None,
    loop: Loop = COMPETENT,
) -> list[Predictions]:
    """A fit with all images in memory as one tensor: batches are sliced, cropped and flipped by
    tensor operations, and each part is predicted once, after the fit.

    Args:
        tasks, recipe, seed, on_epoch: as in `plain_fit`.
        loop: what to make use of.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(loop.threads)
    if loop.keep_memory:
        keep_freed_memory()
    layout = torch.channels_last if loop.channels_last else torch.contiguous_format
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=loop.bfloat16)
    network = SmallNet(tasks).to(memory_format=layout)
    images = torch.cat([_tensor(task.train.images, pad=recipe.crop) for task in tasks])
    images = images.contiguous(memory_format=layout)
    heads = torch.repeat_interleave(torch.tensor([len(task.train) for task in tasks]))
    labels = torch.cat([torch.from_numpy(task.train.labels) for task in tasks])
    steps = math.ceil(len(labels) / recipe.batch)
    optimiser, schedule = new_optimiser(network, recipe, steps=steps, fused=loop.fused)
    network.train()
    for epoch in range(recipe.epochs):
        losses = []
        for rows in torch.randperm(len(labels)).split(recipe.batch):
            batch = images[rows]
            if recipe.crop:
                batch = _crop_and_flip(batch, flip=recipe.flip)
            batch = batch.contiguous(memory_format=layout)
            with autocast:
                logits = network(batch, heads[rows])
            loss = functional.cross_entropy(logits.float(), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
        torch.stack(losses).mean().item()
        on_epoch(epoch + 1)
    with autocast:
        return [
            {
                name: _loop_predictions(network, part, head=head, layout=layout)
                for name, part in task.parts()
            }
            for head, task in enumerate(tasks)
        ]


def keep_freed_memory() -> None:
    """Tell glibc's malloc to keep what is freed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def _tensor(images: np.ndarray, *, pad: bool = False) -> torch.Tensor:
    """Normalised float32, shape (batch, channels, height, width); padded with black if asked."""
    tensor = torch.from_numpy(images.copy()).permute(0, 3, 1, 2)
    if pad:
        tensor = functional.pad(tensor, [PAD] * 4)
    return tensor.float().div_(255).sub_(0.5).div_(0.25)


def _crop_and_flip(padded: torch.Tensor, *, flip: bool) -> torch.Tensor:
    batch, _, height, width = padded.shape
    rows = torch.randint(2 * PAD + 1, (batch, 1)) + torch.arange(height - 2 * PAD)
    columns = torch.randint(2 * PAD + 1, (batch, 1)) + torch.arange(width - 2 * PAD)
    if flip:
        columns = torch.where(torch.rand(batch, 1) < 0.5, columns.flip(1), columns)
    samples = torch.arange(batch)[:, None, None]
    return padded[samples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.inference_mode()
def _loop_predictions(
    network: SmallNet, part: Part, *, head: int, layout: torch.memory_format
) -> np.ndarray:
    network.eval()
    rows = [torch.zeros(0, network.classes)]
    for start in range(0, len(part), 256):
        images = _tensor(part.images[start : start + 256]).contiguous(memory_format=layout)
        logits = network(images, torch.full((len(images),), head)).float()
        rows.append(functional.softmax(logits, dim=1))
    return torch.cat(rows).numpy()


# ---- a zoo


FITS = {"plain": plain_fit, "competent": loop_fit}


def main() -> None:
    """Grow a zoo, member by member; its average accuracy is the last line of stdout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("baseline", choices=FITS)
    parser.add_argument("config", help="as for run_cluster.py")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="likewise")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
    config = read_config(arguments.config, overrides=[*arguments.set, "workers.count=0"])
    plan = plan_run(config)
    growth = plan.growth()
    while not growth.finished:
        wanted = growth.wanted()[0]
        predictions = FITS[arguments.baseline](
            [plan.tasks[position] for position in wanted.tasks],
            plan.recipe,
            seed=wanted.spec.seed,
        )
        growth.deliver(wanted.spec.digest, predictions, predictions_sha256="")
        print(f"{arguments.baseline}: {wanted.name}, tasks {wanted.tasks}", file=sys.stderr)
    print(json.dumps({"average_accuracy": growth.metrics().average_accuracy}))


if __name__ == "__main__":
    main()
