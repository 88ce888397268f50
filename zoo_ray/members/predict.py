"""What a fitted network predicts; and what decides bits wherever one computes."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy.typing as npt
import torch
from torch.nn import functional
from torch.utils import deterministic

from zoo_ray.keys import hash_bits
from zoo_ray.members.augment import normalise
from zoo_ray.members.spec import MemberSpec
from zoo_ray.networks import build_network
from zoo_ray.networks.heads import MultiHead
from zoo_ray.task import Images, PartName, Probabilities

# Part of what decides the bits: another batch may take another path through the convolutions.
# glibc gives the threads of a process, as a worker's is, at most 64 MiB without asking the system:
# twice the batch would pass that, and predict 30% slower (small_conv, 32 pixels, float32).
PREDICTION_BATCH = 128
# A wide residual network keeps whole images in 64 channels and more: of larger ones than this,
# fewer are predicted at once.
_PIXELS_AT_ONCE = PREDICTION_BATCH * 84 * 84
WAIT_S = 0.5
"""How often one that waits for other threads says that it lives."""


class NotItsWeights(ValueError):
    """Weights are not those of a member's network."""


def check_device(device: str) -> None:
    """Raise ValueError unless torch can compute on a device here."""
    try:
        with torch_settings(threads=1):  # which come before CUDA is first used
            torch.zeros(1, device=device).cpu()
    # ImportError: of a kind that needs another package; AssertionError: of a torch without CUDA.
    except (RuntimeError, TypeError, AssertionError, ImportError) as error:
        why = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"device = {device!r}: torch cannot use it here ({why}); give 'cpu', or 'cuda' where "
            "there is a GPU"
        ) from None


def predict(
    *,
    spec: MemberSpec,
    weights: Mapping[str, npt.NDArray[Any]],
    classes: Sequence[int],
    head: int,
    images: Images,
    device: str = "cpu",
    part: PartName = "test",
) -> Probabilities:
    """What a member predicts, from its weights.

    On the images of a part of one of its tasks it is what its fit predicted, bit for bit on the
    same hardware.

    Args:
        spec: of the member.
        weights: its parameters and buffers, as the fit gave them.
        classes: number of classes of each of its tasks.
        head: the position of the task among them.
        images: uint8, shape (samples, height, width, channels), of the size that it was fitted on.
        device: a torch device.
        part: of the task that the images stand for, where a network draws as it predicts.

    Returns:
        Class probabilities, float32, shape (samples, classes of the task).

    Raises:
        NotItsWeights: they do not fit the network for such images.
        ValueError: the network does not take such images, or is a user's own that is not here.
    """
    height, width, channels = images.shape[1:]
    with torch_settings(threads=spec.recipe.threads), own_generators():
        network = build_network(
            spec.recipe.network,
            image_shape=(height, width, channels),
            classes=classes,
            dropout=spec.recipe.dropout,
            trunk_key=spec.recipe.trunk,
        )
        try:
            # A copy: the arrays may be views of a file's bytes.
            network.load_state_dict({name: torch.tensor(a) for name, a in weights.items()})
        except RuntimeError as error:
            raise NotItsWeights(str(error).splitlines()[-1].strip()) from None
        network = network.to(device).to(memory_format=torch.channels_last)
        return predict_images(network, images, head=head, spec=spec, part=part)


@torch.inference_mode()
def predict_images(
    network: MultiHead,
    images: Images,
    *,
    head: int,
    spec: MemberSpec,
    part: PartName,
    alive: Callable[[], None] = lambda: None,
) -> Probabilities:
    """What a network predicts; arguments as of `predict`, and `alive`, called at each batch."""
    network.eval()
    rows = network.rows[head]
    device = network.closed.device
    predictions = [torch.zeros((0, rows.stop - rows.start), device=device)]
    batch = _prediction_batch(spec.recipe.network, images)
    for start in range(0, len(images), batch):
        some = torch.from_numpy(images[start : start + batch].copy()).to(device)
        seed_draws(network, spec, "prediction", spec.seed, head, part, start)
        predicted = _predict(network, some, head=head, spec=spec)
        if spec.recipe.average_flips:
            predicted += _predict(network, some.flip(2), head=head, spec=spec)
            predicted /= 2
        predictions.append(predicted)  # on the device: to fetch each would be to wait for each
        alive()
    return torch.cat(predictions).cpu().numpy()


def _predict(
    network: MultiHead, images: torch.Tensor, *, head: int, spec: MemberSpec
) -> torch.Tensor:
    with autocast(network, spec):
        features = network.trunk(normalise(images, input_dtype(spec)))
    return functional.softmax(network.head_logits(features, head=head), dim=1)


def _prediction_batch(network: str, images: Images) -> int:
    if network == "small_conv":
        return PREDICTION_BATCH
    pixels: int = images.shape[1] * images.shape[2]
    return max(1, min(PREDICTION_BATCH, _PIXELS_AT_ONCE // pixels))


# ---- what a fit has in common with it


_generators = threading.RLock()


@contextmanager
def own_generators(
    gpus: Sequence[torch.device] = (), *, alive: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Have torch's global generators, which threads share, for oneself; then as they were.

    Args:
        gpus: whose generators are meant, beside the processor's.
        alive: called twice a second while others have them.
    """
    while not _generators.acquire(timeout=WAIT_S):
        alive()
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        _generators.release()


@contextmanager
def torch_settings(*, threads: int) -> Iterator[None]:
    """Settings that decide bits, whatever the process that fits has set, and back again."""
    with _for_all_threads:
        before = torch.get_num_threads()  # of this thread
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


class _ForAllThreads:
    """The settings that threads have in common, from the first that needs them to the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before.enter_context(_settings())
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._before.close()


_for_all_threads = _ForAllThreads()


@contextmanager
def _settings() -> Iterator[None]:
    before = (
        torch.get_num_threads(),  # of threads to come
        torch.get_float32_matmul_precision(),
        torch.get_default_dtype(),
        torch.get_deterministic_debug_mode(),
        deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch._C._get_mkldnn_enabled(),
    )
    torch.set_float32_matmul_precision("highest")
    torch.set_default_dtype(torch.float32)
    # cuBLAS is deterministic with a workspace of a fixed size; read when CUDA is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Not use_deterministic_algorithms, which imports the whole compiler to tell it, too.
    torch.set_deterministic_debug_mode("error")
    # That would fill each new tensor with NaN, lest somebody read it before it is written: nobody
    # does, and a step makes some ninety tensors.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Enabled: `flags` disables cuDNN unless told, which makes a step eight times slower.
    cuda = {"enabled": True, "benchmark": False, "deterministic": True, "allow_tf32": False}
    try:
        torch._C._set_mkldnn_enabled(True)  # mkldnn.flags would warn of GPUs that are not there
        with torch.backends.cudnn.flags(**cuda):
            yield
    finally:
        torch._C._set_mkldnn_enabled(before[5])
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])
        torch.set_default_dtype(before[2])
        torch.set_deterministic_debug_mode(before[3])
        deterministic.fill_uninitialized_memory = before[4]  # type: ignore[attr-defined]


def is_random(spec: MemberSpec) -> bool:
    """Whether the network may draw from torch's generator when it is used."""
    return bool(spec.recipe.dropout or spec.recipe.trunk)


def seed_draws(network: MultiHead, spec: MemberSpec, *place: str | int) -> None:
    """Make what the network draws a function of the place: a resumed fit draws the same."""
    if not is_random(spec):
        return
    # Not torch.manual_seed, which would seed every GPU.
    device = network.closed.device
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    for generator in generators:
        generator.manual_seed(hash_bits(*place))


def input_dtype(spec: MemberSpec) -> torch.dtype:
    """Of the trunk's input."""
    return torch.bfloat16 if spec.recipe.precision == "bfloat16" else torch.float32


def autocast(network: MultiHead, spec: MemberSpec) -> torch.autocast:
    """Of the trunk's arithmetic, by the recipe's precision."""
    return torch.autocast(
        network.closed.device.type,
        dtype=torch.bfloat16,
        enabled=spec.recipe.precision == "bfloat16",
    )
