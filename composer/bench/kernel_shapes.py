"""The launches of Triton kernels at all shapes of the benchmark and the self-tests, without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.expert_attention import reference
from blocks.ir.kernel import Kernel, Target
from blocks.kernels import self_tests
from composer.bench import doctor
from composer.bench.measuring.clocks import Run
from composer.bench.measuring.machine import Rates
from composer.bench.measuring.setting import Setting
from composer.bench.measuring.spec import bench_spec
from composer.bench.parts import routing, weight_gradients
from composer.bench.run import PARTS, Measure
from composer.graph.passes.self_test import checked_kernels, run_check
from composer.language.schema.spec import Spec
from composer.launches.fake_gpu import fake_gpu, replaced
from composer.launches.launches import TritonLaunch, counted
from composer.launches.machine_code import Compiled, MachineCode
from composer.launches.step import step_launches
from composer.module.model import ComposedModel

Watch = Callable[[TritonLaunch], None]

_STEPS: dict[str, tuple[bool, int, *tuple[str, ...]]] = {
    "step of 16": (True, 16),
    "step of 32": (True, 32),
    "step of the small model": (False, 16),
    "step with a depth window": (True, 16, "blocks.depth.window=4"),
    "step with a depth stride": (True, 16, "blocks.depth.stride=2"),
    "step with a softmax mix": (True, 4, "model.residual={mix: learned_query}"),
    "step with a static mix": (True, 4, "model.residual={mix: static}"),
    "step with a ReLU mix": (True, 4, "model.residual={mix: relu_query}"),
    "step with a mix by token": (True, 4, "model.residual={mix: token}"),
    "step with a gate per channel": (True, 4, "model.residual={gate: channel}"),
    "step with a gate per token": (True, 4, "model.residual={gate: token}"),
    "step with a bias by depth": (True, 16, "blocks.depth.bias=distance"),
    "step with streams": (True, 4, "model.residual={streams: 4, constrain: doubly_stochastic}"),
    "step with static streams": (True, 4, "model.residual={streams: 4, mix: static}"),
}
_LEFT_OUT = ("step", "graph", "attention")
"""Parts that time whole steps, whose launches `_STEPS` has, or torch's kernels."""


class Failed(RuntimeError):
    """A case did not run to its end."""


def machine_codes() -> list[MachineCode]:
    """Compile the kernels of all cases for a Hopper; return each compiled code with its first case.

    Raises:
        UserError: kernels are interpreted.
        Failed: a case did not run to its end.
    """
    compiled = Compiled()
    for name, run in cases():
        compiled.case = name
        run(compiled)
    return [*compiled.codes.values()]


def cases() -> Iterator[tuple[str, Callable[[Watch], None]]]:
    """Yield each case by name with a function that runs it on fake tensors and hands on its launches.

    Cases are those of `composer doctor`, the parts of `composer bench` at full size, the work that tiles are
    tuned for, and whole steps, also with a window, a stride or a bias of depth attention, residual gates, a
    residual mix or residual streams.
    """
    for name, kernel, dtype in _tested():
        yield f"self-test of {name}, {dtype}", partial(_self_test, kernel, dtype)
    for name, measure in PARTS.items():
        if name not in _LEFT_OUT:
            yield f"bench {name}", partial(_part, name, measure)
    for size in routing.FULL:
        yield f"tiles, {size}", partial(_weight_gradients, size)
    for name, of_spec in _STEPS.items():
        yield name, partial(_step, bench_spec(*of_spec))


def _tested() -> Iterator[tuple[str, Kernel, str]]:
    """Yield the name, the kernel and the dtype of each self-test that `composer doctor` runs."""
    doctor.import_operations()
    for _, kernel in sorted(checked_kernels(), key=lambda each: each[1].name):
        if not kernel.missing():
            yield from (
                (kernel.name, kernel, dtype)
                for dtype in doctor.DTYPES
                if not kernel.dtypes or dtype in kernel.dtypes
            )


def _self_test(kernel: Kernel, dtype: str, watch: Watch) -> None:
    with fake_gpu("float32"), _nothing_compared(), counted(watch):
        if wrong := run_check(kernel, None, Target("cpu", dtype, here=True)):
            raise Failed(f"self-test of {kernel.name}, {dtype}: {wrong}")


def _part(name: str, measure: Measure, watch: Watch) -> None:
    # fake weights are on the only device there is, and cannot be moved
    unmoved = patch.object(ComposedModel, "to", lambda model, device: model)
    # the benchmark casts some of its cases itself
    with fake_gpu(), torch.autocast("cpu", enabled=False), unmoved, counted(watch):
        for row in (row for rows in measure(_setting()) for row in rows):
            if row.ours and row.seconds is None:
                raise Failed(f"bench {name}, {row.case}, {row.task}, {row.name}: {row.note}")


def _weight_gradients(size: routing.Size, watch: Watch) -> None:
    rows = size.tokens * size.active

    def choices(draw: Any) -> tuple[Tensor, Tensor]:
        return torch.empty(rows, dtype=torch.int32), torch.empty(size.experts, dtype=torch.int32)

    drawn = patch.object(weight_gradients._Draw, "choices", choices)
    unadded = patch.object(weight_gradients, "_add", lambda *given: None)
    with fake_gpu("float32"), drawn, unadded, counted(watch):
        for work in weight_gradients.works(size, _setting()):
            work.run()


def _step(spec: Spec, watch: Watch) -> None:
    step_launches(spec, watch=watch)


class _FullSize(Setting):
    """The setting of a GPU, whose tensors are fake ones on a CPU."""

    @property
    def target(self) -> Target:
        return Target("cuda", "bfloat16", here=True)


def _setting() -> Setting:
    return _FullSize(torch.device("cpu"), torch.bfloat16, True, 1, _once, Rates(1.0, 1.0), False, warmup=0)


def _once(run: Run) -> float:
    run()
    return 1.0


@contextmanager
def _nothing_compared() -> Iterator[None]:
    """Let self-tests run to their end on tensors without values."""
    with ExitStack() as stack:
        stack.enter_context(replaced(self_tests.mismatch, lambda *given: ""))
        stack.enter_context(patch.object(torch, "equal", lambda *given: True))
        stack.enter_context(patch.object(reference, "experts_plain", _experts))
        stack.enter_context(patch.object(F, "grouped_mm", partial(_grouped, F.grouped_mm)))
        yield


def _experts(x: Tensor, weights: Tensor, indices: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Depend on all factors, as the experts do that select rows by their values."""
    return x * (weights.sum() + gate_up.sum() + down.sum())


def _grouped(grouped_mm: Any, a: Tensor, b: Tensor, **named: Any) -> Tensor:
    # in fp32 it loops over the groups, whose ends fake tensors do not know
    if a.dtype != torch.float32:
        made: Tensor = grouped_mm(a, b, **named)
        return made
    groups = [len(named["offs"])] if a.dim() == b.dim() == 2 else []
    return a.new_empty(*groups, a.shape[0], b.shape[-1])
