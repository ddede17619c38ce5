"""How many workers a search starts by itself, and what each may use."""

from __future__ import annotations

import math

import pytest
from fake_training import toy

from search.run import machine, worker_plan
from search.run.worker_plan import PROCESS, THREADS, plan_workers, sample_of

# 1024 tokens of width 512 are worth more than one thread
LARGE = ("model.width=512", "caps={}")
CAPPED = ("caps.train_memory=256MiB",)
ROOMY = 64 << 30


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Plans workers on a machine made up."""

    def planned(*overrides, asked=None, runs=math.inf, cores=8, memory=ROOMY, gpus=(), threads=None):
        monkeypatch.setattr(worker_plan, "available_cores", lambda: cores)
        monkeypatch.setattr(worker_plan, "available_memory", lambda: memory)
        monkeypatch.setattr(worker_plan, "visible_gpus", lambda: list(gpus))
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if threads:
            monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        space = toy(tmp_path, *overrides)
        return plan_workers(lambda: sample_of(space), asked, runs)

    return planned


def test_cores_are_shared_out_by_the_threads_of_a_run(plan):
    small, large = plan(), plan(*LARGE)
    assert (small.count, small.threads) == (8, 1)
    assert (large.count, large.threads) == (8 // THREADS, THREADS)
    assert plan(*LARGE, threads=1).environment(0) == {"OMP_NUM_THREADS": "1"}
    assert plan(*LARGE, threads=1).count == 8
    assert plan(*LARGE, cores=2).count == 1
    assert plan("train.devices=2").count == 4


def test_the_number_asked_for_is_kept_and_shares_the_cores(plan):
    assert [(plan(asked=n).count, plan(asked=n).threads) for n in (1, 2, 3, 16)] == [
        (1, 8),
        (2, 4),
        (3, 2),
        (16, 1),
    ]


def test_no_more_workers_are_started_than_runs_are_left(plan):
    assert [plan(runs=n).count for n in (0, 1, 3, 100)] == [1, 1, 3, 8]
    assert plan(runs=1, gpus="0123").count == 1


def test_memory_gives_fewer_workers_and_says_so_or_warns_of_the_number_asked_for(plan):
    memory = 3 * (PROCESS + (256 << 20))
    few, kept = plan(*CAPPED, memory=memory), plan(*CAPPED, memory=memory, asked=8)
    assert few.count == 3
    assert few.note == (
        "3 workers instead of 8: a run may take 256 MiB (train_memory) and its process 512 MiB, "
        "and 2.25 GiB of memory are free"
    )
    assert kept.count == 8
    assert kept.note.startswith("8 workers may need 6 GiB, more than the 2.25 GiB of free memory")
    assert plan(*CAPPED, memory=0).count == 1
    assert plan(*CAPPED).note == ""
    # without a cap it is the dearest of some candidates
    assert plan(memory=2 * PROCESS).count == 1
    assert plan(memory=3 * PROCESS).count == 2


def test_each_worker_has_a_gpu_of_its_own_or_as_many_as_a_run_takes(plan):
    assert [plan(gpus="0123").environment(n)["CUDA_VISIBLE_DEVICES"] for n in range(4)] == [*"0123"]
    assert plan(gpus="0123", memory=0).count == 4
    assert plan("train.devices=2", gpus="0123").gpus == ("0,1", "2,3")
    assert plan("train.devices=2", gpus="01234").gpus == ("0,1", "2,3")
    assert plan("train.strategy=fsdp", gpus="0123").count == 1
    assert plan("train.devices=8", gpus="0123").count == 1
    assert plan(gpus="0123", asked=2).gpus == ("0", "1")
    assert plan(gpus="01", asked=3).gpus == ("0", "1", "0")
    # one process takes all it sees, as `composer train` does
    assert plan(gpus="0123", asked=1).environment(0).keys() == {"OMP_NUM_THREADS"}


def test_limits_of_a_container_count(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "_free_memory", lambda: 1000)
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.setattr(machine, "_cgroups", lambda: [inner, tmp_path])
    assert (machine.available_cores(), machine.available_memory()) == (8, 1000)
    (inner / "cpu.max").write_text("max 100000\n")
    (inner / "memory.max").write_text("max\n")
    assert (machine.available_cores(), machine.available_memory()) == (8, 1000)
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    for name, text in {"max": "800", "current": "500", "stat": "anon 400\ninactive_file 60"}.items():
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    assert (machine.available_cores(), machine.available_memory()) == (2, 360)
    (inner / "cpu.max").write_text("50000 100000\n")
    assert machine.available_cores() == 1
