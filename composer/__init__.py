"""Compose, cost, train and search depth-recurrent language models from one YAML spec.

Importing this package imports no torch; what needs it imports it when called.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from composer.costs.counting.count import Costs
    from composer.graph.taps.names import Named
    from composer.language.load import load
    from composer.language.schema.spec import Spec
    from composer.module.model import ComposedModel
    from composer.module.record import Recording, Replacements, StepKey
    from composer.settings.errors import SpecError
    from composer.training.data.datamodule import SpecData
    from composer.training.start import Taken

__all__ = [
    "SpecError",
    "compile",
    "cost",
    "datamodule",
    "load",
    "load_run",
    "record",
    "start_from",
    "value_names",
]


def _spec(spec: Spec | str | Path) -> Spec:
    from composer.language.load import load

    return load(spec) if isinstance(spec, (str, Path)) else spec


def cost(spec: Spec | str | Path) -> Costs:
    """Return what a spec costs: parameters, FLOPs, memory, caches; in total, by block and by operation.

    Raises:
        SpecError: the spec is not valid.
    """
    from composer.costs.counting.plan import make_plan

    return make_plan(_spec(spec)).costs


def compile(
    spec: Spec | str | Path,
    kernels: Literal["auto", "reference", "fused"] = "auto",
    torch_compile: Literal["auto", "on", "off"] = "auto",
) -> ComposedModel:
    """Compile a spec into a LightningModule whose `forward(tokens [B, S])` gives logits [B, S, vocab].

    Each operation runs by the best kernel that fits the device it is on, chosen at the start of a fit or at a
    forward pass. `kernels="reference"` runs all in plain PyTorch; "fused" refuses where an operation has a
    fused kernel that does not fit. `torch_compile="on"` has torch compile what lies between those kernels for
    training, which takes about a minute once; "auto" does so on a GPU, for runs of at least 1000 steps.

    Raises:
        SpecError: the spec is not valid or over one of its caps.
        ValueError: its weights do not fit in memory.
    """
    from composer.costs.counting.plan import make_plan
    from composer.costs.fitting.caps import check_caps
    from composer.training.folder.build import build

    plan = make_plan(_spec(spec))
    check_caps(plan)
    return build(plan, kernels, torch_compile)


def datamodule(spec: Spec | str | Path) -> SpecData:
    """Return the LightningDataModule of a spec's `train.data`.

    Raises:
        SpecError: the spec is not valid or has no `train` section.
        ValueError: the data cannot be read.
    """
    from composer.training.data.datamodule import datamodule as make

    return make(_spec(spec))


def load_run(folder: str | Path, weights: Literal["best", "last"] = "best") -> ComposedModel:
    """Return the trained module of a run folder, on the CPU, in evaluation mode.

    `weights` are the "best", those of the evaluation with the lowest loss, or the "last", those of the latest
    checkpoint.

    Raises:
        ValueError: the folder is not that of a run, or has no such weights.
    """
    from composer.training.folder.run_folder import load_run as read

    return read(Path(folder), weights)


def record(
    model: ComposedModel,
    names: str | Iterable[str],
    steps: Collection[StepKey] | None = None,
    replace: Replacements | None = None,
) -> AbstractContextManager[Recording]:
    """Record values of a model while it is called in the context, or replace them.

    ::

        with composer.record(model, ["stages.0", "*.depth.query"]) as r:
            model(tokens)
        r["stages.0", 3]  # the state after step 3: [batch, sequence, width]
        r["stages.0"]  # after all steps: [steps, batch, sequence, width]

    `names` are those of `value_names`, or shell patterns of them. `steps` limits what is recorded in stages
    to some steps: of nested stages those of the innermost, or tuples of one number for each. Recorded are the
    values of the last pass, with their history where autograd records. No output changes by a bit: what a
    fused kernel does not make is computed beside it, by the reference.

    `replace` maps names, or (name, step), to tensors or to functions of the value and its step. The model
    goes on with what they give, which has the same shape, dtype and device.

    Raises:
        ValueError: a name, step or replacement does not fit, the model is being recorded already, or it is no
            composed model; in the context, `generate` and exits are refused.
        RuntimeError: in the context, a pass that would run code that torch compiled (`torch_compile="on"`
            where gradients are recorded).
    """
    from composer.module.record import record as make

    return make(model, names, steps, replace)


def start_from(model: ComposedModel, run: str | Path, weights: Literal["best", "last"] = "best") -> Taken:
    """Load the weights of a run folder, or of a file of weights, into a model, as far as the model has them.

    Returns which were taken and which are new; `text` says so in words. The weights are as in `load_run`.

    Raises:
        ValueError: a weight has another shape there, none has the same name, or there are no such weights.
    """
    from composer.training.start import start_from as start

    return start(model, run, weights)


def value_names(model: ComposedModel | Spec | str | Path) -> dict[str, Named]:
    """Return the values of a model that `record` takes, by name, in the order in which they are made.

    Each has a `type`, its shape per token and precision, and says in how many `stages` it is. The names
    depend on the spec alone, never on kernels.

    Raises:
        SpecError: it is a spec that is not valid.
    """
    from composer.graph.taps.names import value_names as names
    from composer.language.schema.spec import Spec

    return names(_spec(model) if isinstance(model, (Spec, str, Path)) else model.spec)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    # what the command line's start need not wait for
    if name == "__version__":
        from importlib.metadata import version

        return version("attention-composer")
    if name == "load":
        from composer.language.load import load

        return load
    if name == "SpecError":
        from composer.settings.errors import SpecError

        return SpecError
    raise AttributeError(f"module 'composer' has no attribute {name!r}")
