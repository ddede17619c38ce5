"""A study by several workers, shown as one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from composer import cost
from composer.language.schema.spec import Spec
from search.errors import SearchError
from search.launch.launcher import Need
from search.run.crew import Plan as WorkerPlan
from search.run.interruption import STOPPING, interruption
from search.run.open_store import open_shared
from search.run.worker_process import Ended, Note, Tell
from search.study.load import Study
from search.study.plan import Plan
from search.study.rows import read_rows
from search.study.run import Event, Progress, Watch, run_study
from search.trainer import Train, train


@dataclass(frozen=True)
class StudyJob:
    """The job of training a study: the arguments of `run_study`."""

    study: Study
    folder: Path
    rows: Path
    storage: str | None
    train: Train

    def work(self, tell: Tell) -> str:
        """Train, reporting each event with the progress after it."""

        def watch(event: Event, progress: Progress) -> None:
            training = event == "progress"
            tell((event, progress), droppable=training, training=training)

        run_study(self.study, self.folder, self.rows, self.train, watch, self.storage)
        return "nothing is due"


def need(study: Study, rows: Path) -> Need:
    """Return what workers of the study are needed for."""

    def runs() -> int:
        plan = Plan(study)
        return plan.size() - plan.results(read_rows(rows)).done()

    def sample() -> tuple[list[Spec], int]:
        specs = [arm.spec for arm in study.arms]
        return specs, int(max(cost(spec).measure("train_memory") or 0 for spec in specs))

    return Need(runs, sample)


def run_workers(
    study: Study,
    folder: Path,
    rows: Path,
    plan: WorkerPlan,
    watch: Watch,
    storage: str | None = None,
    train: Train = train,
) -> None:
    """Train a study with the workers of a plan; `watch` is called with the events of all, numbered from 1.

    Raises:
        SearchError: all workers failed; with their reasons.
        KeyboardInterrupt: it was interrupted; no worker is left running.
    """
    job = StudyJob(study, folder.absolute(), rows.absolute(), storage, train)
    with open_shared(study, folder, storage), interruption() as stop, plan.start(job) as workers:
        failed: dict[str, None] = {}
        interrupted, done = False, 0
        for received in workers.messages():
            if stop.pass_on(workers):
                watch("note", Progress(0, note=STOPPING))
            if received is None:
                continue
            worker, message = received
            if isinstance(message, Note):
                watch("note", Progress(0, note=f"worker {worker.number}: {message.text}"))
            elif not isinstance(message, Ended):
                event, progress = message
                progress.worker = worker.number
                if event not in ("begin", "end"):
                    watch(event, progress)
            elif message.how == "done":
                done += 1
            elif message.how == "stopped" or stop.began:
                interrupted = True
            else:
                failed.setdefault(message.text)
        if interrupted:
            raise KeyboardInterrupt
        if failed and not done:
            raise SearchError("\n".join(failed))
        for text in failed:
            watch("note", Progress(0, note=f"a worker failed: {text}"))
