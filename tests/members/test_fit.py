import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toys import RECIPE, toy_task

from zoo_ray.members.augment import PAD, epoch_order, epoch_shifts
from zoo_ray.members.fit import FitFailed, fit
from zoo_ray.members.predict import predict_images, torch_settings
from zoo_ray.members.spec import MemberSpec, TaskShare
from zoo_ray.networks import build_network
from zoo_ray.task import PARTS, Part, Task

GREY = [
    toy_task("grey", classes=2, train=20, validation=0, test=7),
    toy_task("more", classes=3, train=15, validation=5, test=4, seed=1),
]
COLOUR = [
    toy_task("rgb", classes=3, train=20, size=32, channels=3),
    toy_task("bgr", classes=2, train=12, size=32, channels=3, seed=1),
]


def spec_of(tasks, *, seed=11, **recipe):
    shares = tuple(TaskShare(task.digest) for task in tasks)
    return MemberSpec(shares, replace(RECIPE, **recipe), seed)


GREY_SPEC = spec_of(GREY)
COLOUR_SPEC = spec_of(COLOUR, epochs=2, crop=True, flip=True)
LOW_SPEC = spec_of(COLOUR, precision="bfloat16")


def bits(member):
    """All that a member's bits are, to be compared with ==."""
    arrays = dict(member.weights)
    for number, predictions in enumerate(member.predictions):
        arrays |= {f"{number} {part}": predictions[part] for part in PARTS}
    return {key: (a.dtype.str, a.shape, a.tobytes().hex()) for key, a in arrays.items()} | {
        "losses": member.epoch_losses
    }


@pytest.fixture(scope="module")
def grey_member():
    return fit(spec=GREY_SPEC, tasks=GREY)


@pytest.fixture(scope="module")
def colour_member():
    return fit(spec=COLOUR_SPEC, tasks=COLOUR)


def test_a_fit_repeated_gives_the_same_bits(grey_member, colour_member):
    assert bits(fit(spec=GREY_SPEC, tasks=GREY)) == bits(grey_member)
    assert bits(fit(spec=COLOUR_SPEC, tasks=COLOUR)) == bits(colour_member)


def test_a_fit_in_bfloat16_repeated_gives_the_same_bits(grey_member):
    spec = spec_of(GREY, precision="bfloat16")
    member = fit(spec=spec, tasks=GREY)
    assert bits(fit(spec=spec, tasks=GREY)) == bits(member)
    assert bits(member) != bits(grey_member)
    assert {array.dtype.str for array in member.weights.values()} == {"<f4", "<i8"}


OTHER_PROCESS = """
import json, sys
sys.path.insert(0, "tests/members"); sys.path.insert(0, "tests")
import torch
torch.set_num_threads(2); torch.manual_seed(99); torch.rand(1000) @ torch.rand(1000)
from test_fit import COLOUR, COLOUR_SPEC, GREY, GREY_SPEC, LOW_SPEC, bits, fit
specs = (COLOUR_SPEC, COLOUR), (GREY_SPEC, GREY), (LOW_SPEC, COLOUR)
members = [fit(spec=spec, tasks=tasks) for spec, tasks in specs]
print(json.dumps([bits(member) for member in members]))
"""


def test_another_process_gives_the_same_bits(grey_member, colour_member):
    output = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS],
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": "."},
        check=True,
        capture_output=True,
    ).stdout
    low_member = fit(spec=LOW_SPEC, tasks=COLOUR)
    expected = json.dumps([bits(colour_member), bits(grey_member), bits(low_member)])
    assert json.loads(output) == json.loads(expected)


@pytest.fixture
def disturbed_torch():
    """A process that others have used before: other threads, other precision, other state."""
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    torch.set_default_dtype(torch.float64)
    torch._C._set_mkldnn_enabled(False)
    torch.backends.cudnn.enabled = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.manual_seed(123)
    torch.rand(77)
    np.random.seed(5)
    yield
    torch.set_num_threads(before[0])
    torch.set_float32_matmul_precision(before[1])
    torch.set_default_dtype(torch.float32)
    torch._C._set_mkldnn_enabled(True)
    torch.backends.cudnn.enabled = True
    torch.use_deterministic_algorithms(False)


def torch_state():
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "filled": torch.utils.deterministic.fill_uninitialized_memory,
        "matmul": torch.get_float32_matmul_precision(),
        "dtype": torch.get_default_dtype(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "cudnn": torch.backends.cudnn.enabled,
        "generator": torch.get_rng_state().tolist(),
        "grad": torch.is_grad_enabled(),
        "numpy": np.random.get_state()[1].tolist(),
    }


@pytest.mark.usefixtures("disturbed_torch")
def test_what_the_process_has_set_changes_no_bit_and_is_left_as_it_was(grey_member):
    before = torch_state()
    member = fit(spec=GREY_SPEC, tasks=GREY)
    assert torch_state() == before
    assert bits(member) == bits(grey_member)


@pytest.mark.usefixtures("disturbed_torch")
def test_a_fit_has_the_libraries_that_make_convolutions_fast():
    with torch_settings(threads=1):
        assert torch.backends.mkldnn.enabled
        assert torch.backends.cudnn.enabled  # which torch's own switch turns off unless told
        assert torch.backends.cudnn.deterministic


@pytest.mark.usefixtures("disturbed_torch")
def test_a_failed_fit_leaves_torch_as_it_was():
    before = torch_state()
    with pytest.raises(FitFailed):
        fit(spec=spec_of(GREY, lr=1e6, epochs=3), tasks=GREY)
    assert torch_state() == before


@pytest.mark.parametrize(
    "changed",
    [spec_of(GREY, seed=12), spec_of(GREY, lr=0.02), spec_of(GREY, l2=0.1), spec_of(GREY, batch=9)],
    ids=["seed", "lr", "l2", "batch"],
)
def test_another_spec_gives_other_bits(grey_member, changed):
    other = bits(fit(spec=changed, tasks=GREY))
    assert other["heads.weight"] != bits(grey_member)["heads.weight"]


def test_predictions_are_distributions_over_each_tasks_classes(grey_member, colour_member):
    for member, tasks in ((grey_member, GREY), (colour_member, COLOUR)):
        assert len(member.predictions) == len(tasks)
        for task, predictions in zip(tasks, member.predictions, strict=True):
            for name, part in task.parts():
                assert predictions[name].shape == (len(part), len(task.classes))
                assert predictions[name].dtype == np.float32
                assert (predictions[name] >= 0).all()
                np.testing.assert_allclose(predictions[name].sum(axis=1), 1, rtol=1e-6)


def test_a_fit_reports_its_losses_time_and_hardware(colour_member):
    assert len(colour_member.epoch_losses) == 2
    assert colour_member.is_finite()
    assert colour_member.fit_s > 0
    assert colour_member.hardware["torch"] == torch.__version__


def test_a_fit_learns():
    task = toy_task(train=64, test=40)
    member = fit(spec=spec_of([task], epochs=4), tasks=[task])
    assert (member.predictions[0]["test"].argmax(axis=1) == task.test.labels).mean() > 0.95
    assert member.epoch_losses[-1] < member.epoch_losses[0]


def test_a_task_of_one_class_is_predicted_with_certainty():
    tasks = [toy_task("one", classes=1), toy_task("two", seed=1)]
    member = fit(spec=spec_of(tasks), tasks=tasks)
    assert (member.predictions[0]["test"] == 1).all()


def test_weights_are_those_of_the_network():
    network = build_network("small_conv", image_shape=(28, 28, 1), classes=[2, 3])
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    member = fit(spec=GREY_SPEC, tasks=GREY)
    assert {name: array.shape for name, array in member.weights.items()} == expected
    assert all(array.flags["C_CONTIGUOUS"] for array in member.weights.values())


def test_tasks_are_not_changed():
    before = [task.digest for task in GREY]
    fit(spec=spec_of(GREY, crop=True, flip=True), tasks=GREY)
    again = [Task(t.name, t.classes, t.train, t.validation, t.test).digest for t in GREY]
    assert again == before


# ---- against an independent fit


def reference_fit(spec, tasks):
    """The same member as torch's tutorials would fit it: a module per layer and per head."""
    recipe, channels = spec.recipe, tasks[0].image_shape[2]
    torch.manual_seed(spec.seed)
    start = build_network(
        "small_conv", image_shape=tasks[0].image_shape, classes=[len(t.classes) for t in tasks]
    )
    trunk = nn.Sequential(
        *(nn.Conv2d(channels, 80, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(80, 80, 3), nn.BatchNorm2d(80), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(80, 80, 3), nn.BatchNorm2d(80), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
    )
    for layer, name in ((0, "conv1"), (3, "conv2"), (7, "conv3")):
        trunk[layer].load_state_dict(getattr(start.trunk, name).state_dict())
    heads = nn.ModuleList(nn.Linear(start.trunk.features, len(t.classes)) for t in tasks)
    for head, rows in zip(heads, start.rows, strict=True):
        head.load_state_dict(
            {"weight": start.heads.weight[rows].detach(), "bias": start.heads.bias[rows].detach()}
        )
    network = nn.ModuleList([trunk, heads])
    samples = [
        (number, image, label)
        for number, task in enumerate(tasks)
        for image, label in zip(task.train.images, task.train.labels, strict=True)
    ]
    steps = -(-len(samples) // recipe.batch)
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=recipe.lr,
        momentum=0.9,
        nesterov=True,
        weight_decay=recipe.l2,
        foreach=False,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: (
            1.0
            if recipe.schedule == "constant"
            else 0.5 * (1 + np.cos(np.pi * step / (steps * recipe.epochs)))
        ),
    )

    def as_input(images):
        scaled = (np.stack(images).astype(np.float32) / 255 - 0.5) / 0.25
        return torch.from_numpy(scaled).permute(0, 3, 1, 2)

    for epoch in range(recipe.epochs):
        order = epoch_order(seed=spec.seed, epoch=epoch, samples=len(samples))
        shifts = epoch_shifts(seed=spec.seed, epoch=epoch, samples=len(samples), flip=recipe.flip)
        for first in range(0, len(samples), recipe.batch):
            batch = [samples[row] for row in order[first : first + recipe.batch]]
            images = []
            for place, (_, image, _) in enumerate(batch, start=first):
                if recipe.crop:
                    top, left = int(shifts.top[place]), int(shifts.left[place])
                    height, width, _ = image.shape
                    image = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)))
                    image = image[top : top + height, left : left + width]
                    image = image[:, ::-1] if shifts.flip[place] else image
                images.append(image)
            features = trunk(as_input(images))
            losses = [
                nn.functional.cross_entropy(heads[task](row[None]), torch.tensor([label]))
                for row, (task, _, label) in zip(features, batch, strict=True)
            ]
            optimiser.zero_grad()
            torch.stack(losses).mean().backward()
            optimiser.step()
            schedule.step()
    trunk.eval()
    with torch.no_grad():
        return [
            heads[number](trunk(as_input(task.test.images))).softmax(dim=1).numpy()
            for number, task in enumerate(tasks)
        ]


def noise_task(*, classes, size, channels, seed):
    """Noise of full contrast: few of its activations lie so close to 0 that rounding decides."""
    rng = np.random.default_rng(seed)
    return Task(
        "noise",
        tuple("abc"[:classes]),
        *(
            Part(
                rng.integers(0, 256, (samples, size, size, channels), dtype=np.uint8),
                np.arange(samples) % classes,
            )
            for samples in (19, 0, 7)
        ),
    )


@pytest.mark.parametrize(
    ("size", "channels", "recipe"),
    [
        (28, 1, {"l2": 1e-3}),
        (32, 3, {"crop": True, "flip": True}),
        (28, 1, {"schedule": "constant", "lr": 0.005}),
    ],
    ids=["plain", "cropped and flipped", "constant"],
)
def test_twenty_steps_agree_with_an_independent_fit(size, channels, recipe):
    tasks = [
        noise_task(classes=classes, size=size, channels=channels, seed=classes)
        for classes in (2, 3)
    ]
    spec = spec_of(tasks, epochs=4, **recipe)  # of five steps, the last of them smaller
    member = fit(spec=spec, tasks=tasks)
    for predictions, expected in zip(member.predictions, reference_fit(spec, tasks), strict=True):
        np.testing.assert_allclose(predictions["test"], expected, rtol=1e-4)


# ---- predictions averaged over mirror images


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_averaged_predictions_are_the_mean_of_those_on_both_images(precision):
    task = toy_task(classes=3, train=20, validation=4, test=7, size=32, channels=3)
    mirrored = replace(
        task,
        **{
            name: Part(np.ascontiguousarray(part.images[:, :, ::-1]), part.labels)
            for name, part in task.parts()
        },
    )
    spec = spec_of([task], precision=precision)
    plain = fit(spec=spec, tasks=[task])
    averaged = fit(spec=spec_of([task], precision=precision, average_flips=True), tasks=[task])
    assert bits(averaged)["heads.weight"] == bits(plain)["heads.weight"]
    network = build_network("small_conv", image_shape=(32, 32, 3), classes=[3])
    network.load_state_dict({name: torch.tensor(array) for name, array in plain.weights.items()})
    network = network.to(memory_format=torch.channels_last)
    with torch_settings(threads=1):
        expected = {
            name: predict_images(network, part.images, head=0, spec=spec, part=name)
            for name, part in mirrored.parts()
        }
    for part in PARTS:
        assert not np.array_equal(expected[part], plain.predictions[0][part])
        mean = (plain.predictions[0][part] + expected[part]) / 2
        assert averaged.predictions[0][part].tobytes() == mean.tobytes()


# ---- limited replay


def test_replay_is_the_first_samples_of_each_class_in_stored_order_repeated():
    """A share of a task trains as a task would that holds just the replayed samples."""
    whole = toy_task("arrives", classes=3, train=12)
    past = toy_task("past", classes=3, train=16, seed=1)
    shuffled = np.array([2, 0, 0, 1, 2, 2, 1, 0, 0, 1, 2, 0, 1, 1, 0, 2])
    past = replace(past, train=Part(past.train.images, shuffled))
    rows = [0, 1, 2, 3, 4, 6]  # the first two of each class
    replayed = replace(
        past,
        train=Part(
            np.concatenate([past.train.images[rows]] * 3), np.concatenate([shuffled[rows]] * 3)
        ),
    )
    recipe = replace(RECIPE, epochs=2)
    share = TaskShare(past.digest, samples_per_class=(2, 2, 2), repeats=3)
    limited = fit(spec=MemberSpec((share, TaskShare(whole.digest)), recipe, 1), tasks=[past, whole])
    by_hand = fit(
        spec=MemberSpec((TaskShare(replayed.digest), TaskShare(whole.digest)), recipe, 1),
        tasks=[replayed, whole],
    )
    assert limited.epoch_losses == by_hand.epoch_losses
    for name, array in limited.weights.items():
        assert array.tobytes() == by_hand.weights[name].tobytes()
    # It predicts on all of the task, replayed or not.
    assert limited.predictions[0]["train"].shape == (16, 3)


def test_a_class_with_fewer_samples_than_replay_allows_gives_all_it_has():
    task = toy_task(train=7)
    share = TaskShare(task.digest, samples_per_class=(4, 4), repeats=1)
    limited = fit(spec=MemberSpec((share,), RECIPE, 1), tasks=[task])
    assert bits(limited) == bits(fit(spec=spec_of([task], seed=1), tasks=[task]))


# ---- what goes wrong


@pytest.mark.parametrize(
    ("lr", "epochs"), [(1e6, 1), (1e6, 3), (1e30, 1)], ids=["high", "higher", "absurd"]
)
def test_a_fit_that_diverges_fails_in_one_line_that_says_what_to_try(lr, epochs):
    with pytest.raises(FitFailed) as caught:
        fit(spec=spec_of(GREY, lr=lr, epochs=epochs), tasks=GREY)
    assert "recipe.lr" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lr", [1e6, 1e30])
def test_a_fit_in_bfloat16_that_diverges_fails(lr):
    with pytest.raises(FitFailed, match=r"recipe\.lr"):
        fit(spec=spec_of(GREY, lr=lr, epochs=3, precision="bfloat16"), tasks=GREY)


@pytest.mark.parametrize("wrong", [GREY[:1], GREY[::-1], [*GREY, GREY[0]], COLOUR, []])
def test_tasks_of_another_spec_are_refused(wrong):
    with pytest.raises(ValueError, match="not those of the spec"):
        fit(spec=GREY_SPEC, tasks=wrong)


def test_images_of_different_sizes_are_refused():
    tasks = [toy_task(size=28), toy_task(size=32)]
    with pytest.raises(ValueError, match="differ in shape"):
        fit(spec=spec_of(tasks), tasks=tasks)


def test_images_too_small_for_the_network_are_refused():
    tasks = [toy_task(size=8)]
    with pytest.raises(ValueError, match="28 to 84 pixels"):
        fit(spec=spec_of(tasks), tasks=tasks)


def test_progress_only_ever_grows_and_tells_of_every_epoch():
    told = []
    fit(spec=spec_of(GREY, epochs=3), tasks=GREY, on_progress=told.append)
    done = [state.epochs_done for state in told]
    assert done == sorted(done)
    assert {1.0, 2.0, 3.0} <= set(done)
    assert done[-1] == 3.0
    assert {state.epochs for state in told} == {3}
    assert all(np.isfinite(state.loss) for state in told)
