"""Processes on this machine."""

from __future__ import annotations

from search.launch.launcher import Launcher, Need, Options
from search.run.worker_plan import WorkerPlan, plan_workers


def _plan(need: Need, workers: int | None, options: Options) -> WorkerPlan:
    runs = float("inf") if workers is not None else need.runs()
    return plan_workers(need.sample, workers, runs)


LAUNCHER = Launcher("processes on this machine; the default", _plan)
