"""How many workers, and what each holds."""

import pytest

from zoo_ray.config import WorkersConfig
from zoo_ray.errors import UserError
from zoo_ray.offer import Offer, WorkerPlan, plan_workers, split_over_nodes, this_machine


def offer(cpus, gpus=0, *, nodes=None, launchable_gpus=0):
    return Offer(
        where="the cluster",
        cpus=cpus,
        gpus=gpus,
        nodes=((cpus, gpus),) if nodes is None else nodes,
        launchable_cpus=1000 if launchable_gpus else 0,
        launchable_gpus=launchable_gpus,
    )


def plan(given, *, threads=1, members=100, one_at_a_time=False, **asked):
    return plan_workers(
        WorkersConfig(**asked),
        threads=threads,
        members=members,
        offer=given,
        one_at_a_time=one_at_a_time,
    )


def test_auto_takes_the_free_gpus_one_each():
    assert plan(offer(16, 4)) == WorkerPlan(count=4, cpus=1, gpus=1, fits=8)


def test_auto_takes_the_free_cpus_where_no_gpu_is_free():
    assert plan(offer(8, 0, nodes=((8, 4),))) == WorkerPlan(count=8, cpus=1, gpus=0)


def test_a_worker_fits_several_members_at_once_on_a_gpu_of_its_own():
    assert plan(offer(16, 4)).fits == 8
    assert plan(offer(16, 4), gpus=0.5).fits == 1
    assert plan(offer(16)).fits == 1
    assert plan(offer(16), fits=3).fits == 3
    assert plan(offer(16), fits=3).cpus == 3
    assert plan(offer(16, 4), fits=2).fits == 2
    assert plan(offer(16, 4), one_at_a_time=True).fits == 1
    assert plan(offer(1, 1), count=0).fits == 1


def test_members_are_spread_over_the_gpus_before_they_share_one():
    assert plan(offer(16, 4), members=3) == WorkerPlan(count=3, cpus=1, gpus=1, fits=1)
    assert plan(offer(16, 4), members=9) == WorkerPlan(count=4, cpus=1, gpus=1, fits=3)


def test_auto_gives_a_worker_a_cpu_per_thread():
    assert plan(offer(8), threads=3) == WorkerPlan(count=2, cpus=3, gpus=0)


def test_auto_starts_no_more_workers_than_there_are_members():
    assert plan(offer(64), members=5).count == 5


def test_auto_waits_with_one_worker_where_all_is_taken():
    assert plan(offer(0, nodes=((8, 0),))) == WorkerPlan(count=1, cpus=1, gpus=0)


def test_fractions_of_a_gpu_share_it():
    assert plan(offer(16, 2), gpus=0.25) == WorkerPlan(count=8, cpus=1, gpus=0.25)


def test_a_gpu_worker_without_cpus_is_possible():
    assert plan(offer(0, 2), cpus=0) == WorkerPlan(count=2, cpus=0, gpus=1, fits=8)


def test_no_workers_means_this_process_whatever_its_cpus():
    assert plan(offer(1), count=0, threads=4) == WorkerPlan(count=0, cpus=0, gpus=0)


def test_what_an_autoscaler_can_launch_may_be_asked_for():
    assert plan(offer(2, launchable_gpus=8), count=8, gpus=1, cpus=0).count == 8


def test_auto_has_an_autoscaler_launch_what_is_not_there():
    empty = offer(0, nodes=((0, 0),), launchable_gpus=8)
    assert plan(empty) == WorkerPlan(count=8, cpus=1, gpus=1, fits=8)
    assert plan(empty, members=5).count == 5
    # One of three nodes is there, and taken.
    assert plan(offer(3, 0, nodes=((4, 1),), launchable_gpus=3)).count == 2


@pytest.mark.parametrize(
    "asked",
    [
        {"gpus": 1},
        {"count": 0, "gpus": 1},
        {"count": 3},
        {"count": 1, "cpus": 2.5},
        {"count": 2, "gpus": 0.5},
        {"count": 1, "cpus": 0},
    ],
)
def test_more_than_there_can_be_is_refused_in_a_line_that_names_the_key(asked):
    with pytest.raises(
        UserError, match=r"^workers\.[cg]pus = .*(ask for less, or for|try) auto"
    ) as error:
        plan(offer(2), **asked)
    assert "\n" not in str(error.value)


def test_a_worker_does_not_spread_over_nodes_nor_a_fraction_over_gpus():
    two_small = offer(8, nodes=((4, 0), (4, 0)))
    assert plan(two_small, cpus=3).count == 2
    with pytest.raises(UserError, match=r"^workers\.cpus = 6"):
        plan(two_small, cpus=6)
    assert plan(offer(16, 2), gpus=0.6).count == 2
    with pytest.raises(UserError, match=r"^workers\.gpus = 0\.6, for workers\.count = 3"):
        plan(offer(16, 2), gpus=0.6, count=3)


def test_this_machine_counts_the_gpus_that_are_visible(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert this_machine().gpus == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert this_machine().gpus == 0
    assert this_machine().cpus >= 1


@pytest.mark.parametrize(
    ("count", "nodes", "sizes"),
    [
        (2, [(2, 0)], [2]),
        (5, [(1, 0), (4, 0), (2, 0)], [4, 1]),
        (7, [(1, 0), (4, 0), (2, 0)], [4, 2, 1]),
        (9, [(1, 0), (4, 0)], [4, 1, 1, 1, 1, 1]),  # four on nodes that are still to come
        (3, [(0, 0)], [1, 1, 1]),
        (40, [(6, 0)], [6, *[3] * 11, 1]),
    ],
)
def test_the_workers_of_a_node_are_a_group(count, nodes, sizes):
    assert split_over_nodes(WorkerPlan(count=count, cpus=1, gpus=0), nodes=nodes) == sizes
