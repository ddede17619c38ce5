"""The rivals that are compiled: what they compute, how often they compile, what is said without them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from strategies import make
from torch._dynamo.testing import CompileCounterWithBackend
from torch.overrides import TorchFunctionMode

from composer.bench.measuring.clocks import wall
from composer.bench.measuring.machine import Rates
from composer.bench.measuring.records import Row
from composer.bench.measuring.setting import NO_COMPILER, Setting
from composer.bench.parts import step
from composer.bench.rivals import handwritten_depth
from composer.bench.rivals.handwritten import HandWritten, sizes
from composer.bench.rivals.handwritten_depth import WAYS, Past, compiled_arithmetic
from composer.module.model import ComposedModel

BLOCKS = {
    "a": {"type": "sequence_attention", "heads": 4, "kv_heads": 2, "qk_norm": True},
    "b": {"type": "depth_attention", "heads": 4, "kv_heads": 2},
    "c": {"type": "expert_attention", "experts": 5, "active": 2, "hidden": 16},
}
HERE = Setting(torch.device("cpu"), torch.float32, True, 1, wall, Rates(1e10, 1e11), compiles=False, warmup=1)
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU"
)


def spec(steps=3):
    return make(
        {
            "schema": 1,
            "name": "small",
            "model": {"width": 32, "vocab": 11, "context": 9},
            "blocks": BLOCKS,
            "stages": [{"recur": steps, "step": [*BLOCKS]}],
            "train": {
                "data": {"task": "hop", "length": 9, "symbols": 4, "hops": 1},
                "tokens": "1k",
                "batch_tokens": 18,
                "lr": 1e-2,
            },
        }
    )


def rival(way, steps=3, wrapped=lambda model: model):
    model = HandWritten(sizes(spec(steps)), way).train()
    model.load(ComposedModel(spec(steps)).state_dict())
    return wrapped(model)


def trained(model, dtype=None):
    """Return the loss and all gradients by name."""
    torch.manual_seed(1)
    tokens, targets = torch.randint(11, (2, 4, 9))
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        loss = model(tokens, targets)
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in model.named_parameters()}


@pytest.fixture
def counter(monkeypatch):
    """What torch.compile hands graphs to; it counts them and runs them as they are."""
    torch._dynamo.reset()
    counts = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counts))
    compiled_arithmetic.cache_clear()
    yield counts
    compiled_arithmetic.cache_clear()
    torch._dynamo.reset()


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore")  # of dynamo, about its own ways
def test_compiled_slots_train_as_eager_ones_do():
    torch._dynamo.reset()
    torch.testing.assert_close(trained(rival("compiled slots")), trained(rival("slots")))


@pytest.mark.filterwarnings("ignore")
def test_the_whole_rival_trains_the_same_once_its_pieces_are_compiled(counter):
    result = trained(rival("compiled slots", wrapped=step.compiled))
    assert counter.frame_count
    torch.testing.assert_close(result, trained(rival("einsum")))


@pytest.mark.filterwarnings("ignore")
def test_compiled_slots_compile_as_often_for_five_steps_as_for_three(counter):
    trained(rival("compiled slots", wrapped=step.compiled))
    # before and after depth attention, the end; forward and backward for one slot and for any other number
    assert counter.frame_count == 3 + 2 * 2
    trained(rival("compiled slots", 5, wrapped=step.compiled))
    assert counter.frame_count == 3 + 2 * 2


@pytest.mark.filterwarnings("ignore")
def test_experts_compile_whole_where_products_are_in_bf16(counter):
    def whole(model):
        model.step.after = torch.compile(model.step.after, fullgraph=True)
        return model

    result, gradients = trained(rival("slots", wrapped=whole), torch.bfloat16)
    assert counter.frame_count == 1
    expected, others = trained(rival("slots"), torch.bfloat16)
    torch.testing.assert_close(result, expected, rtol=1e-2, atol=1e-2)
    for name, gradient in gradients.items():
        assert (gradient - others[name]).norm() < 0.05 * others[name].norm(), name


class Fp32Sums(TorchFunctionMode):
    """What autocast does on a GPU to sums and the like that name no dtype, and does not do on a CPU."""

    NAMES = (
        "sum",
        "prod",
        "cumsum",
        "cumprod",
        "softmax",
        "log_softmax",
        "norm",
        "pow",
        "exp",
        "log",
        "rsqrt",
    )

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if name in self.NAMES and kwargs.get("dtype") is None:
            args = [
                each.float() if isinstance(each, torch.Tensor) and each.is_floating_point() else each
                for each in args
            ]
        return function(*args, **kwargs)


def attended(way):
    """Return output and gradients of three steps in bf16."""
    torch.manual_seed(2)
    past = Past(3)
    drawn = [torch.randn(3, 2, 5, heads, 8, dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2)]
    y = 0.0
    for query, key, value in zip(*drawn, strict=True):
        # each step's query comes from the one before, as in a model
        y = WAYS[way](query + y, key + 0 * y[:, :, :2] if past.taken or past.keys else key, value, past)
    y.backward(torch.ones_like(y))
    return y.detach(), *(each.grad for each in drawn)


@pytest.mark.parametrize("way", ["einsum", "elementwise", "slots"])
def test_autocast_of_a_gpu_changes_no_depth_attention(way):
    expected = attended(way)
    with Fp32Sums():
        outputs = attended(way)
    assert {each.dtype for each in outputs} == {torch.bfloat16}
    torch.testing.assert_close(outputs, expected, rtol=0, atol=0)


@pytest.mark.parametrize("way", ["einsum", "elementwise", "slots"])
def test_autocast_of_a_gpu_changes_no_model(way):
    expected = trained(rival(way), torch.bfloat16)
    with Fp32Sums():
        result = trained(rival(way), torch.bfloat16)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_slots_keep_outputs_in_the_dtype_of_values_and_weights_in_fp32():
    query, keys = torch.randn(2, 5, 4, 8).bfloat16(), torch.randn(3, 2, 5, 2, 8).bfloat16()
    with Fp32Sums():
        y, weights = handwritten_depth.attended(query, keys, keys)
    assert (y.dtype, weights.dtype, weights.shape) == (torch.bfloat16, torch.float32, (3, 2, 5, 2, 2))


def test_regions_are_compiled_for_the_contestant_of_that_name_alone(monkeypatch):
    asked = []

    class Composed:
        loss = None

        def __init__(self, spec, torch_compile, recompute):
            asked.append(torch_compile)

    monkeypatch.setattr(step, "ComposedModel", Composed)
    monkeypatch.setattr(step, "_weights", lambda spec: {})
    made = step._Race(spec(), replace(HERE, compiles=True), True).contestants(None)
    assert {*made} >= {step.COMPOSED, step.REGIONS, step.COMPILED}
    for name in (step.COMPOSED, step.POINTWISE, step.EVERYTHING, step.REGIONS):
        made[name]()
    assert asked == ["off", "off", "off", "on"]


def test_without_a_compiler_its_contestants_are_skipped_and_nothing_is_judged():
    rows = {row.name: row for row in step.bench_step(spec(), HERE)}
    for name in (step.REGIONS, step.COMPILED):
        assert (rows[name].note, rows[name].seconds) == (NO_COMPILER, None)
    assert rows[step.COMPOSED].goals == ()
    assert f"not judged without 'by hand, compiled': {NO_COMPILER}" in rows[step.COMPOSED].note
    # it cannot run, which is no comparison
    assert [goal.text for goal in rows[step.REGIONS].goals] == ["runs at all"]


@pytest.mark.parametrize("note", ["", "out of memory", "BackendCompilerFailed: no"])
def test_a_goal_is_judged_where_the_compiled_rival_ran(note):
    ours = Row("c", "t", step.COMPOSED, True, tokens=3.0)
    rival = Row("c", "t", step.COMPILED, tokens=None if note else 1.0, note=note)
    row = step._judged(ours, [ours, Row("c", "t", "by hand, slots", tokens=0.5), rival])
    assert [goal.got for goal in row.goals] == ([] if note else [3.0])
    assert row.note == (f"not judged without 'by hand, compiled': {note}" if note else "")
