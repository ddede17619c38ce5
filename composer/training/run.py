"""Training a spec in its folder: starting, resuming, pausing, finishing."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException

from composer.costs.base.units import bytes_text
from composer.costs.counting.checkpoint import checkpoint_size
from composer.costs.counting.plan import Plan, as_plan
from composer.costs.fitting.caps import check_caps
from composer.graph.passes.choose_kernels import Kernels
from composer.language.schema.spec import Spec, Train
from composer.module.capture.recorder import CudaGraphChoice
from composer.module.emission.code import TorchCompile
from composer.module.passes import reported_names
from composer.module.scores import Scores
from composer.settings.errors import os_message
from composer.training.attached import check_loggers, make_callbacks, make_loggers
from composer.training.block_norms import BlockNorms
from composer.training.capture.cuda_graph import CudaGraph, refuse
from composer.training.data.datamodule import SpecData, datamodule
from composer.training.evaluate import autocast, evaluate
from composer.training.folder.build import build, is_out_of_memory
from composer.training.folder.checkpoint import put_weights, read_checkpoint, weights_of
from composer.training.folder.errors import TrainingError
from composer.training.folder.run_folder import LAST, default_folder, held
from composer.training.lengthen import lengthen
from composer.training.processes.allocator import keep_freed_memory
from composer.training.processes.interrupt import Stop
from composer.training.processes.launched import Launched, among_ranks, launched
from composer.training.processes.ranks import OneMachine, started
from composer.training.processes.threads import use_fitting_threads
from composer.training.recorder import Events, Progress, Recorder
from composer.training.score import SavedModel
from composer.training.start import begin, compare, started_folder, take_start
from composer.training.trainer import (
    backend_of,
    deterministic,
    device_count,
    device_kind,
    device_memory,
    device_target,
    quiet,
    trainer,
)

__all__ = ["Progress", "Result", "run_training"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Result:
    """The state of a run.

    Attributes:
        folder: the run folder.
        metrics: held-out scores of the last evaluation, at `tokens`.
        best: scores of the evaluation with the lowest loss, whose weights `load_run` loads.
        tokens: training tokens read.
        finished: whether the whole run is done.
        trained: whether this call trained, or found the run finished.
        sequences: number of held-out sequences of an evaluation, each scored once.
    """

    folder: Path
    metrics: dict[str, float]
    best: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    finished: bool = False
    trained: bool = True
    sequences: int = 0


def run_training(
    spec: Spec | Plan,
    out: Path | None = None,
    *,
    until_tokens: int | None = None,
    kernels: Kernels = "auto",
    torch_compile: TorchCompile = "auto",
    report: Callable[[Progress], None] | None = None,
    start: SavedModel | None = None,
    loggers: Sequence[str] = (),
    cuda_graph: CudaGraphChoice = "auto",
) -> Result:
    """Train a spec in its folder (`runs/<name>-<run hash>` or `out`), from its current state to the end.

    With `start` a new run begins from saved weights (`composer.training.score.read`) as far as they fit
    (`composer.training.start`), with a fresh optimizer and the whole schedule of the spec. `loggers` are
    names of `composer.training.attached.LOGGERS`; they write to `logs` in the folder.

    A spec that differs from the folder's only in `train.tokens` and `train.schedule` continues from the
    last state that its learning rates lead to (see `lengthen`).

    With `until_tokens` it evaluates, saves and pauses there, on the schedule of the whole run; a later call
    continues. `kernels` and `torch_compile` are as in `ComposedModel`, `cuda_graph` as in `CudaGraph`. They
    do not identify the run, and may differ from call to call.
    `report` is called with the progress a few times per second.

    Raises:
        SpecError: the spec is over a cap, or `fused` kernels were asked for where one does not fit.
        TrainingError: the folder is another run's or in use, the loss is not finite, memory or disk is full,
            or a file cannot be written.
        DataError: the data cannot be used.
        KeyboardInterrupt: SIGINT, SIGTERM, SIGUSR1 or SIGHUP was sent to any of its processes;
            the folder is saved as of the last whole step.
    """
    plan = as_plan(spec)
    spec, train = plan.spec, _train(plan.spec)
    check_caps(plan)
    check_loggers(loggers)
    make_callbacks(train.callbacks)  # refused before the folder is created
    folder = out or (default_folder(spec) if start is None else started_folder(spec, start))
    taken = None if start is None else compare(plan, start)
    data = datamodule(spec)  # faults of the data are reported before the folder is created
    ranks = outside.world_size() if (outside := launched()) is not None else device_count(train)
    refuse(cuda_graph, device_kind(), train.strategy)
    here, events = plan_here(plan, kernels), Events(train, until_tokens)
    stop = Stop()

    def work(environment: OneMachine | Launched) -> Result:
        recorder = fit(
            here,
            folder,
            until_tokens,
            environment,
            data,
            report,
            torch_compile,
            stop,
            loggers,
            cuda_graph,
        )
        tokens, done = recorder.step * train.tokens_per_step, recorder.step == train.steps
        return Result(folder, recorder.metrics, recorder.best, tokens, done, sequences=data.eval_sequences)

    @contextmanager
    def entered() -> Iterator[Result | None]:
        """Lock the folder; yield the result if the run is finished already."""
        with held(folder, plan, here, lengthen):
            if start is not None and taken is not None:
                begin(folder, spec, taken, start.weights)
            yield _stored(here, folder, events, data)

    with _training_errors(folder, plan):
        if outside is not None:
            with stop.listening(), outside.joined(backend_of(train, outside.world_size()), train.devices):
                return among_ranks(outside, entered, work)
        with entered() as stored:
            if stored is not None:
                return stored
            with (
                stop.listening(),
                started(
                    folder, until_tokens, ranks, kernels, torch_compile, loggers, cuda_graph
                ) as environment,
            ):
                return work(environment)


def plan_here(spec: Spec | Plan, kernels: Kernels) -> Plan:
    """Return the plan of a run on this machine."""
    plan = as_plan(spec)
    return plan.on(device_target(_train(plan.spec)), kernels)


def fit(
    plan: Plan,
    folder: Path,
    until_tokens: int | None,
    environment: OneMachine | Launched,
    data: SpecData,
    report: Callable[[Progress], None] | None,
    torch_compile: TorchCompile,
    stop: Stop,
    loggers: Sequence[str] = (),
    cuda_graph: CudaGraphChoice = "off",
) -> Recorder:
    """Train as one of the ranks on its `data`, from the folder's checkpoint to the end or a `stop`."""
    spec, train = plan.spec, _train(plan.spec)
    events, scores = Events(train, until_tokens), Scores(spec).metrics
    recorder = Recorder(folder, events, scores, report, stop, reported_names(plan.graph))
    last = folder / LAST
    keep_freed_memory()
    use_fitting_threads(train.tokens_per_step // train.accumulate * spec.model.width)
    gc.enable()  # the command line disables it; a trained model has reference cycles
    with quiet(), deterministic(device_kind()):
        model = build(plan, plan.kernels, torch_compile)
        if not last.exists():
            take_start(model, folder)
        model.logs_steps = False  # the recorder reads the losses
        stop.check()
        if (backend := backend_of(train, environment.world_size())) is not None:
            environment.join(backend, stop)
        callbacks = [CudaGraph(cuda_graph), *make_callbacks(train.callbacks)]
        if loggers:
            callbacks.append(BlockNorms(events.row_steps))
        saved = checkpoint_size(spec, plan.graph).resume_tensors
        trainer(train, recorder, environment, make_loggers(loggers, folder), callbacks, saved).fit(
            model,
            datamodule=data,
            ckpt_path=last if last.exists() else None,
            weights_only=True,
        )
    return recorder


def _train(spec: Spec) -> Train:
    if spec.train is None:
        raise TrainingError(f"{spec.name}: expected a `train` section to train by, got none")
    return spec.train


def _stored(plan: Plan, folder: Path, events: Events, data: SpecData) -> Result | None:
    """Return the result of a run that already reached its goal, or None."""
    path, train = folder / LAST, events.train
    if not path.exists():
        return None
    checkpoint = read_checkpoint(path)
    match checkpoint:
        case {"global_step": int(step), "callbacks": {Recorder.__qualname__: dict(state)}}:
            metrics = dict(state["metrics"])
        case _:
            raise TrainingError(f"{path}: expected the checkpoint of a run, got one of another Trainer")
    if step < events.last:
        return None
    if state["evaluated"] != step:
        # saved on the way to a later end
        model = build(plan).to(device_kind())
        put_weights(model, weights_of(checkpoint, path), path)
        metrics = evaluate(model, data.val_dataloader(), lambda: autocast(model))
    tokens = step * train.tokens_per_step
    best, done = dict(state["best"]) or metrics, step >= train.steps
    return Result(folder, metrics, best, tokens, done, trained=False, sequences=data.eval_sequences)


@contextmanager
def _training_errors(folder: Path, plan: Plan) -> Iterator[None]:
    """Raise a TrainingError for errors of files, memory, callbacks and loggers in the context."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise TrainingError(
                f"{folder}: no room left to write ({error.strerror}); earlier checkpoints are intact, "
                "free some space and run the same command again"
            ) from None
        raise TrainingError(os_message(error, error.filename or folder)) from None
    except MisconfigurationException as error:  # of a callback, or a logger
        raise TrainingError(f"{folder}: {error}") from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        memory, train = plan.memory, _train(plan.spec)
        kept = 2 * memory.weights + memory.terms["optimizer"]  # gradients take as many as weights
        # sharded ones are a part of these
        if train.strategy != "fsdp" and kept > (room := device_memory()):
            raise TrainingError(
                f"out of memory: weights, gradients and optimizer take {bytes_text(kept)} of the "
                f"{bytes_text(room)} there are; choose a smaller model"
            ) from None
        micro = train.batch_sequences // train.accumulate
        raise TrainingError(
            f"out of memory with {micro} sequences of {train.length} tokens at once; "
            f"raise train.accumulate ({train.accumulate}) or lower train.batch_tokens ({train.batch_tokens})"
        ) from None
