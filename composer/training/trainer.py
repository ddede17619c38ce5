"""The lightning.Trainer of a run."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger

from blocks.ir.kernel import Target
from composer.language.schema.spec import Train
from composer.training.evaluate import lightning_precision
from composer.training.folder.checkpoint import WholeCheckpoints
from composer.training.folder.errors import TrainingError
from composer.training.processes.launched import Launched
from composer.training.processes.ranks import OneMachine
from composer.training.processes.watch import limit
from composer.training.recorder import Recorder


def device_kind() -> str:
    """Return `cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_target(train: Train) -> Target:
    """Return the target for which a run's kernels are chosen on this machine."""
    kind = device_kind()
    mixed = lightning_precision(train.precision, torch.device(kind)) == "bf16-mixed"
    return Target(kind, "bfloat16" if mixed else "float32", here=True)


def device_memory() -> int:
    """Return the bytes of memory of one device."""
    if device_kind() == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device_count(train: Train) -> int:
    """Return the number of devices to train on.

    Raises:
        TrainingError: the machine has fewer than the spec asks for.
    """
    cuda = device_kind() == "cuda"
    have = torch.cuda.device_count() if cuda else os.cpu_count() or 1
    if train.devices == "auto":
        return have if cuda else 1
    if train.devices > have:
        noun = "GPUs" if cuda else "CPU cores"
        raise TrainingError(
            f"train.devices: expected at most the {have} {noun} of this machine, got {train.devices}"
        )
    return train.devices


def trainer(
    train: Train,
    recorder: Recorder,
    environment: OneMachine | Launched,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[lightning.Callback] = (),
    saved: int = 0,
) -> lightning.Trainer:
    """Return a Trainer that runs up to the recorder's last step and writes nothing of its own.

    `saved` are the bytes of a checkpoint.
    """
    saves = any(isinstance(each, Checkpoint) for each in callbacks)
    kind = device_kind()
    made = lightning.Trainer(
        accelerator=kind,
        devices=environment.world_size() // environment.nodes,
        num_nodes=environment.nodes,
        strategy=_strategy(train, environment.world_size(), saved),
        precision=lightning_precision(train.precision, torch.device(kind)),  # type: ignore[arg-type]
        max_epochs=-1,
        max_steps=recorder.events.last,
        accumulate_grad_batches=train.accumulate,
        callbacks=[recorder, *callbacks],
        plugins=[WholeCheckpoints(), environment.plugin],
        default_root_dir=recorder.folder,
        # the recorder evaluates, saves and logs, and tells callbacks of its evaluations
        limit_val_batches=0,
        val_check_interval=recorder.events.evaluation_batches,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=[*loggers] or False,
        log_every_n_steps=recorder.events.row_steps,
        enable_checkpointing=saves,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # its SIGTERM handler would run a collective while other ranks are elsewhere
    made._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return made


def backend_of(train: Train, ranks: int) -> str | None:
    """Return the backend of torch.distributed, if there are several ranks."""
    if ranks == 1 and train.strategy == "auto":
        return None
    return "nccl" if device_kind() == "cuda" else "gloo"


def _strategy(train: Train, ranks: int, saved: int) -> Any:
    if (backend := backend_of(train, ranks)) is None:
        return "auto"
    if train.strategy == "fsdp":
        from composer.training.sharded import Sharded, are_too_large

        return Sharded(ranks, backend, are_too_large(saved))
    from lightning.pytorch.strategies import DDPStrategy

    return DDPStrategy(process_group_backend=backend, timeout=limit())


@contextmanager
def deterministic(kind: str) -> Iterator[None]:
    """Make torch use deterministic algorithms on a CPU, where they cost nothing."""
    settings: Any = torch.utils.deterministic
    before, fill = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(before or kind == "cpu")
    settings.fill_uninitialized_memory = fill and before  # costs time, and nothing reads such memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = fill


@contextmanager
def quiet() -> Iterator[None]:
    """Hide Lightning's tips and information on the terminal, but not its warnings."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 under torch 2.11 and later, on every fit
            warnings.filterwarnings(
                "ignore", r".isinstance\(treespec, LeafSpec\). is deprecated", FutureWarning
            )
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
