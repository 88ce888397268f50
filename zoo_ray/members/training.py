"""A training: all that changes in it, the samples that it sees, and its step."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress, islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.optim.sgd import sgd

from zoo_ray.members.augment import PAD, Shifts, crop_and_flip, epoch_order, epoch_shifts, normalise
from zoo_ray.members.hardware import hardware, processor
from zoo_ray.members.member import Checkpoint
from zoo_ray.members.predict import autocast, input_dtype, seed_draws
from zoo_ray.members.spec import MemberSpec
from zoo_ray.networks import on_gpu
from zoo_ray.networks.heads import MultiHead
from zoo_ray.task import Task

MOMENTUM = 0.9
BATCHES_AT_ONCE = 16
"""The small operations that make batches cost as much for many as for one."""


class Misfit(ValueError):
    """A checkpoint is not one of this fit; begin afresh."""


class Batch(NamedTuple):
    """The samples of a step, on the device.

    Attributes:
        images: the trunk's input, (batch, channels, height, width), channels-last.
        heads: int64, (batch,): each sample's head.
        targets: int64, (batch,): its true class, as a row of the network's linear layer.
    """

    images: torch.Tensor
    heads: torch.Tensor
    targets: torch.Tensor


class Choices(NamedTuple):
    """How an epoch goes, or a part of it, sample by sample in the order in which it visits them.

    Attributes:
        rows: int64: of the training samples.
        shifts: how each is cropped and flipped.
        heads, targets: as in `Batch`.
    """

    rows: torch.Tensor
    shifts: Shifts
    heads: torch.Tensor
    targets: torch.Tensor

    def of(self, samples: slice) -> "Choices":
        """Those of some of the samples."""
        return Choices(
            rows=self.rows[samples],
            shifts=self.shifts.of(samples),
            heads=self.heads[samples],
            targets=self.targets[samples],
        )

    def to(self, device: torch.device) -> "Choices":
        """The same on a device."""
        return Choices(
            rows=self.rows.to(device),
            shifts=self.shifts.to(device),
            heads=self.heads.to(device),
            targets=self.targets.to(device),
        )


class Training:
    """All that changes while a network is trained.

    Attributes:
        network: its parameters and buffers change in place.
        spec: of the member.
        device: where the network is.
        hardware: what it is trained on.
        momenta: of its parameters, in their order.
        step: steps done, over all epochs.
        epoch_losses: mean training loss of each complete epoch.
        loss_sum: of the samples that the present epoch has seen; stays on the device.
    """

    def __init__(self, network: MultiHead, spec: MemberSpec) -> None:
        self.network = network
        self.spec = spec
        self.device = network.closed.device
        self.hardware = _hardware(self.device, spec)
        self.momenta = [torch.zeros_like(weight) for weight in network.parameters()]
        self.step = 0
        self.epoch_losses: list[float] = []
        self.loss_sum = torch.zeros((), device=self.device)
        trained = [weight.requires_grad for weight in network.parameters()]
        self._parameters: list[torch.Tensor] = list(compress(network.parameters(), trained))
        self._their_momenta: list[torch.Tensor | None] = list(compress(self.momenta, trained))
        self._narrow = _Narrow.of(network, spec, self._parameters)

    def learn(self, batch: Batch, *, lr: float | torch.Tensor) -> None:
        """Take a step, but for counting it.

        Args:
            lr: on a GPU it may be a float32 tensor there, of one element.
        """
        narrow = self._narrow
        with autocast(self.network, self.spec):
            features = narrow.call(batch.images) if narrow else self.network.trunk(batch.images)
        logits = self.network.logits(features, heads=batch.heads)
        loss = functional.cross_entropy(logits, batch.targets)
        # The functions that torch.optim.SGD and backward() wrap, without their bookkeeping.
        gradients: Sequence[torch.Tensor] = torch.autograd.grad(
            loss,
            narrow.parameters if narrow else self._parameters,
            allow_unused=True,
            materialize_grads=True,
        )
        with torch.no_grad():
            if narrow:
                gradients = narrow.widen(gradients)
            sgd(
                self._parameters,
                [_laid_out(*pair) for pair in zip(gradients, self._parameters, strict=True)],
                self._their_momenta,
                fused=True,
                lr=lr,
                momentum=MOMENTUM,
                nesterov=True,
                weight_decay=self.spec.recipe.l2,
                dampening=0,
                maximize=False,
            )
        self.loss_sum += loss.detach() * len(batch.targets)

    def end_epoch(self, loss: float) -> None:
        """Note the epoch's mean loss and begin the next one."""
        self.epoch_losses.append(loss)
        self.loss_sum.zero_()

    def to_checkpoint(self) -> Checkpoint:
        """A copy of all this, in the machine's memory."""
        # np.array copies, which .cpu() on a CPU does not.
        arrays = {
            name: np.array(tensor.cpu().numpy(), order="C")
            for name, tensor in self._tensors().items()
        }
        return Checkpoint(self.step, self.epoch_losses.copy(), arrays, self.hardware)

    def load(self, checkpoint: Checkpoint, *, steps: int, epochs: int) -> None:
        """Take over a checkpoint of a training that has so many steps in each of its epochs.

        Raises:
            Misfit: it is of another training.
        """
        step, losses = checkpoint.step, checkpoint.epoch_losses
        if not 0 <= step <= steps * epochs or len(losses) != step // steps:
            raise Misfit(
                f"step {step} with {len(losses)} epochs' losses, in {epochs} epochs of {steps}"
            )
        if checkpoint.hardware != self.hardware:
            raise Misfit(f"it was fitted on {checkpoint.hardware}, this is {self.hardware}")
        expected, found = (_layout(c.arrays) for c in (self.to_checkpoint(), checkpoint))
        if expected != found:
            wrong = sorted(name for name, _ in set(expected.items()) ^ set(found.items()))
            raise Misfit(f"its {wrong[0]} is not that of the network")
        self.step, self.epoch_losses = step, losses.copy()
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                # In place, as the layout in memory decides bits too.
                tensor.copy_(torch.tensor(checkpoint.arrays[name]))

    def _tensors(self) -> dict[str, torch.Tensor]:
        names = [name for name, _ in self.network.named_parameters()]
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        momenta = {f"momentum.{n}": value for n, value in zip(names, self.momenta, strict=True)}
        return state | momenta | {"loss_sum": self.loss_sum}


class _Narrow:
    """Copies of the convolutions' weights in bfloat16, all made by one kernel, where autocast makes
    each with one of its own; and their gradients likewise. The bits are the same.

    Args:
        trunk: whose convolutions they are.
        parameters: that are trained.

    Attributes:
        parameters: the same, those that have a copy as the copy.
    """

    def __init__(self, trunk: nn.Module, parameters: Sequence[torch.Tensor]) -> None:
        self._trunk = trunk
        self._copies: dict[str, torch.Tensor] = {}
        self._weights: list[torch.Tensor] = []
        self.parameters = list(parameters)
        places = {id(parameter): place for place, parameter in enumerate(parameters)}
        for name, module in trunk.named_modules():
            if isinstance(module, nn.Conv2d):
                weight = module.weight
                copy = torch.empty_like(weight, dtype=torch.bfloat16).requires_grad_()
                self._copies[f"{name}.weight"] = copy
                self._weights.append(weight)
                self.parameters[places[id(weight)]] = copy
        self._places = [places[id(weight)] for weight in self._weights]
        self._gradients = [torch.empty_like(weight) for weight in self._weights]

    @staticmethod
    def of(
        network: MultiHead, spec: MemberSpec, parameters: Sequence[torch.Tensor]
    ) -> "_Narrow | None":
        """For a network of ours, on a GPU, in bfloat16."""
        is_on_gpu = network.closed.device.type == "cuda"
        if is_on_gpu and spec.recipe.precision == "bfloat16" and not spec.recipe.trunk:
            return _Narrow(network.trunk, parameters)
        return None

    def call(self, images: torch.Tensor) -> torch.Tensor:
        """What the trunk makes of images, with the weights as they are now."""
        with torch.no_grad():
            torch._foreach_copy_(list(self._copies.values()), self._weights)
        features: torch.Tensor = functional_call(self._trunk, self._copies, (images,))
        return features

    def widen(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Gradients of the trained parameters, from those of `parameters`."""
        torch._foreach_copy_(self._gradients, [gradients[place] for place in self._places])
        wide = list(gradients)
        for place, gradient in zip(self._places, self._gradients, strict=True):
            wide[place] = gradient
        return wide


class TrainingSet:
    """The training samples of all tasks.

    Attributes:
        images: uint8, (samples, height, width, channels), padded if they are to be cropped; on the
            device.
        heads, targets: int64, (samples,): as in `Batch`; in the machine's memory.
        steps: of an epoch.
    """

    def __init__(self, network: MultiHead, spec: MemberSpec, tasks: Sequence[Task]) -> None:
        chosen = [
            share.rows(task.train.labels) for task, share in zip(tasks, spec.tasks, strict=True)
        ]
        images = np.concatenate(
            [task.train.images[rows] for task, rows in zip(tasks, chosen, strict=True)]
        )
        if spec.recipe.crop:
            images = np.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
        self.images = torch.from_numpy(images).to(network.closed.device)
        self.heads = torch.from_numpy(
            np.repeat(np.arange(len(tasks)), [len(rows) for rows in chosen])
        )
        rows_of_class = [
            task.train.labels[rows] + network.rows[head].start
            for head, (task, rows) in enumerate(zip(tasks, chosen, strict=True))
        ]
        self.targets = torch.from_numpy(np.concatenate(rows_of_class))
        self.steps = math.ceil(len(self) / spec.recipe.batch)
        self._spec = spec

    def __len__(self) -> int:
        return len(self.targets)

    def choices(self, epoch: int) -> Choices:
        """How an epoch goes, in the machine's memory."""
        seed, samples, flip = self._spec.seed, len(self), self._spec.recipe.flip
        rows = torch.from_numpy(epoch_order(seed=seed, epoch=epoch, samples=samples))
        shifts = epoch_shifts(seed=seed, epoch=epoch, samples=samples, flip=flip)
        return Choices(rows, shifts, self.heads[rows], self.targets[rows])

    def batches(self, *, epoch: int, first: int) -> Iterator[Batch]:
        """The batches of an epoch's steps, from `first` on."""
        chosen = self.choices(epoch).to(self.images.device)
        at_once = self._spec.recipe.batch * BATCHES_AT_ONCE
        chunks, skipped = divmod(first, BATCHES_AT_ONCE)
        for start in range(chunks * at_once, len(self), at_once):
            chunk = chosen.of(slice(start, start + at_once))
            yield from islice(self.cut(chunk), skipped, None)
            skipped = 0

    def cut(self, chosen: Choices) -> Iterator[Batch]:
        """Batches of samples, in their order; the choices are on the device."""
        recipe = self._spec.recipe
        if recipe.crop:
            images = crop_and_flip(self.images, chosen.rows, chosen.shifts)
        else:
            images = self.images[chosen.rows]
        columns = normalise(images, input_dtype(self._spec)), chosen.heads, chosen.targets
        split = (torch.split(column, recipe.batch) for column in columns)
        return map(Batch._make, zip(*split, strict=True))


def steps_one_by_one(
    training: Training, data: TrainingSet, *, epoch: int, first: int
) -> Iterator[int]:
    """Train for an epoch, from step `first` of it on; after each step, how many are done."""
    spec = training.spec
    for step, batch in enumerate(data.batches(epoch=epoch, first=first), start=first):
        seed_draws(training.network, spec, "dropout", spec.seed, training.step)
        lr = learning_rate(spec, step=training.step, steps=data.steps)
        training.learn(batch, lr=lr)
        yield step + 1


def learning_rate(spec: MemberSpec, *, step: int, steps: int) -> float:
    """Of a step, counted over all epochs of so many steps each."""
    recipe = spec.recipe
    if recipe.schedule == "constant":
        return recipe.lr
    return recipe.lr * (1 + math.cos(math.pi * step / (steps * recipe.epochs))) / 2


def _hardware(device: torch.device, spec: MemberSpec) -> dict[str, str]:
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        name = f"{torch.cuda.get_device_name(device)}, cuDNN {cudnn}"
    else:
        name = f"{processor()} {torch.backends.cpu.get_cpu_capability()}"
    return hardware(
        device=name,
        torch_version=torch.__version__,
        kernels=None if spec.recipe.trunk else on_gpu.name(device, input_dtype(spec)),
    )


def _laid_out(gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A gradient as its weight lies in memory: the fused update asks for that."""
    if gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight).copy_(gradient)


def _layout(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
