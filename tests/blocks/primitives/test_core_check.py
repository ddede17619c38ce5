"""The self-tests of the kernels of `blocks.primitives` pass where they are right, and tell what is off."""

import pytest
import torch

from blocks.ir.kernel import Target
from blocks.primitives.fused_operations import AddNorm, NormRotate
from blocks.primitives.operations import Rotate
from composer.graph.passes.self_test import checked_kernels

pytest.importorskip("triton")
check = pytest.importorskip("blocks.primitives.check", exc_type=ImportError)

TESTS = [
    (check.check_add_norm, None),
    (check.check_add_norm, AddNorm((40,), shared=True)),
    (check.check_rotary, None),
    (check.check_rotary, Rotate((3, 48))),
    (check.check_rotary, NormRotate((1, 80))),
]


@pytest.mark.parametrize(("test", "operation"), TESTS)
@pytest.mark.parametrize("dtype", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.gpu)])
def test_right_kernels_pass(where, test, operation, dtype):
    if where == "cpu" and dtype == "bfloat16":
        pytest.skip("the interpreter has no bf16")
    before = torch.get_rng_state()
    with torch.autocast(where, torch.bfloat16), torch.inference_mode():
        assert test(operation, Target(where, dtype)) == ""
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("test", "kernel", "function", "told"),
    [
        ("check_add_norm", "norm_kernel", "add_norm_forward", "norm is off"),
        ("check_add_norm", "norm_kernel", "add_norm_backward", "gradient of the first term is off"),
        ("check_rotary", "rotary_kernel", "rotate_forward", "turned: output is off"),
        ("check_rotary", "rotary_kernel", "rotate_backward", "turned: gradient of the input is off"),
    ],
)
@pytest.mark.parametrize("wrong", [1.01, float("nan")])
def test_wrong_kernels_are_told(where, monkeypatch, test, kernel, function, told, wrong):
    module = getattr(check, kernel)
    right = getattr(module, function)

    def off(*given, **named):
        made = right(*given, **named)
        return made * wrong if isinstance(made, torch.Tensor) else (made[0] * wrong, *made[1:])

    monkeypatch.setattr(module, function, off)
    assert getattr(check, test)(None, Target(where)).startswith(told)


def test_all_fused_kernels_have_a_check():
    found = {(kind, kernel.name) for kind, kernel in checked_kernels()}
    expected = {
        (AddNorm, "triton_add_norm"),
        (NormRotate, "triton_norm_rotate"),
        (Rotate, "triton_rotate"),
    }
    assert expected <= found
