"""`composer train`: train a spec, or resume a training."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from composer.cli.terminal.options import CompileChoice, GraphChoice, KernelChoice, Set, Which

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Group

    from composer.costs.counting.plan import Plan
    from composer.graph.passes.choose_kernels import Kernels
    from composer.language.schema.spec import Spec
    from composer.module.capture.recorder import CudaGraphChoice
    from composer.module.emission.code import TorchCompile
    from composer.training.run import Result
    from composer.training.score import SavedModel

PANEL = "Training"
EXAMPLE = "composer train specs/dreamer-tiny.yaml --set train.lr=2e-3 --out runs/first"


def train(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="SPEC", help="The spec, a YAML file; that of the run with --from.", show_default=False
        ),
    ] = None,
    settings: Set = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Begin from the weights of a run folder, or of a file of weights, as far as they fit.",
        ),
    ] = None,
    weights: Annotated[
        Which | None, typer.Option("--weights", help="Which weights of that run; the best unless said.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="The run folder, instead of `runs/<name>-<run hash>`."),
    ] = None,
    logger: Annotated[
        list[str] | None,
        typer.Option(
            "--logger",
            metavar="NAME",
            help="Log to csv, tensorboard, wandb or mlflow too, in `logs` of the folder. May be repeated.",
        ),
    ] = None,
    kernels: KernelChoice = "auto",
    torch_compile: CompileChoice = "auto",
    cuda_graph: GraphChoice = "auto",
) -> None:
    """Train a spec. After an interruption the same command resumes from the last checkpoint.

    With --from a new run begins from the weights of another, also with other steps, data or rates: those of
    the same name and shape are taken, others start afresh, and a list says which. Names with other shapes are
    refused.

    The run folder keeps the resolved spec, its costs and plan, metrics.csv, the last and the best checkpoint,
    and the best weights as safetensors. Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP save and stop at the end of the
    optimizer step; a second one stops at once.
    """
    from composer import load
    from composer.cli.terminal.console import console
    from composer.costs.counting.plan import make_plan
    from composer.training.folder.run_folder import default_folder

    if _is_other_rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until this process ends
    saved = _saved(file, start, weights)
    if file is None:
        from composer.training.start import continued_spec

        assert saved is not None
        spec = continued_spec(saved, settings or ())
    else:
        spec = load(file, settings or ())
    plan = make_plan(spec)
    folder = Path(out) if out else None
    if saved is not None:
        from composer.training.start import started_folder

        folder = folder or started_folder(spec, saved)
    header = run_summary(plan, folder)
    if cuda_graph == "on" and spec.train is not None:
        from composer.training.capture.cuda_graph import refuse
        from composer.training.trainer import device_kind

        refuse(cuda_graph, device_kind(), spec.train.strategy)
    print(header, flush=True)
    folder = folder or default_folder(spec)
    kept = _with_kept_warmup(spec, folder)
    plan = plan if kept is spec else make_plan(kept)
    if saved is not None:
        from composer.training.start import compare

        print(compare(plan, saved).text, flush=True)
    try:
        result = _trained(plan, folder, kernels, torch_compile, saved, logger or (), cuda_graph)
    except KeyboardInterrupt:
        print("stopped; run the same command to resume", file=sys.stderr)
        raise typer.Exit(130) from None
    if not result.trained:
        print("this run is already finished; its result:")
    table = console()
    table.print(_result_table(result))
    table.print(
        f"score it:  composer eval {result.folder}\nin Python: composer.load_run({str(result.folder)!r})"
    )


def _is_other_rank() -> bool:
    """Return whether torchrun or SLURM started this process as another rank than the first, which prints."""
    if not {"TORCHELASTIC_RUN_ID", "SLURM_NTASKS"} & os.environ.keys():
        return False
    from composer.training.processes.launched import launched

    ranks = launched()
    return ranks is not None and ranks.rank() > 0


def _saved(file: str | None, start: str | None, weights: Which | None) -> SavedModel | None:
    """Return the weights to begin from, if any.

    Raises:
        BadParameter: neither a spec nor a run was given, or it was said which weights of no run.
    """
    if start is None:
        if file is None:
            raise typer.BadParameter("expected SPEC, or --from RUN to train on with the spec of that run")
        if weights is not None:
            raise typer.BadParameter("--weights: expected --from RUN beside it")
        return None
    from composer.training.score import read

    return read(Path(start), "best" if weights is None else weights.value)


def run_summary(plan: Plan, folder: Path | None) -> str:
    """Summarize what is about to be trained, in a few lines.

    Raises:
        SpecError: the spec is over a cap, or has no `train` section.
    """
    from composer.costs.base.units import count_text
    from composer.costs.fitting.caps import check_caps
    from composer.settings.errors import SpecError
    from composer.training.folder.run_folder import default_folder, shorter_run

    costs = check_caps(plan)
    spec, train = plan.spec, plan.spec.train
    if train is None:
        raise SpecError([spec.fault((), "a `train` section to train by", "none")])
    total = train.steps * train.tokens_per_step
    steps = f"{train.steps:,} steps of {train.tokens_per_step:,}"
    shorter = shorter_run(spec) if folder is None else None
    return (
        f"{spec.name}: {count_text(costs.params)} parameters, "
        f"{count_text(costs.flops_per_token.forward)} FLOPs per token forward\n"
        f"{train.data.task}: {count_text(total)} tokens in {steps}\n"
        f"folder: {folder or default_folder(spec)}"
        + (
            f"\n{shorter} holds the same run with fewer tokens; --out {shorter} continues it"
            if shorter
            else ""
        )
    )


def _with_kept_warmup(spec: Spec, folder: Path) -> Spec:
    """Keep the warmup that the run in `folder` had, and print a note if that changes the schedule."""
    from composer.module.optimization.schedule import warmup_steps
    from composer.training.warmup import keep_warmup, schedule_text

    kept = keep_warmup(folder, spec)
    if kept.train is not None and kept is not spec:
        steps, schedule = warmup_steps(kept.train), schedule_text(kept.train.schedule)
        print(
            f"warmup stays at {steps:,} optimizer step{'' if steps == 1 else 's'}, as trained: "
            f"train.schedule is {schedule}",
            flush=True,
        )
    return kept


def _trained(
    plan: Plan,
    folder: Path,
    kernels: Kernels,
    torch_compile: TorchCompile,
    start: SavedModel | None,
    loggers: Sequence[str],
    cuda_graph: CudaGraphChoice,
) -> Result:
    from composer.cli.terminal.progress import shown
    from composer.training.run import run_training

    with shown() as report:
        return run_training(
            plan,
            folder,
            kernels=kernels,
            torch_compile=torch_compile,
            report=report,
            start=start,
            loggers=loggers,
            cuda_graph=cuda_graph,
        )


def _result_table(result: Result) -> Group:
    from composer.cli.terminal.scores import score_table, sequences_text

    title = f"held-out scores on {sequences_text(result.sequences)} after {result.tokens:,} tokens"
    title += "" if result.finished else ", not finished"
    return score_table(title, {"last": result.metrics, "best": result.best})
