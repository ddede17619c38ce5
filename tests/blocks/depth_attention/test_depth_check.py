"""The self-test of the depth kernels passes where they are right, and tells what is off elsewhere."""

from dataclasses import replace

import pytest
import torch

from blocks.depth_attention.operations import Attend, RotaryAttend, RotaryWriteKV, WriteKV
from blocks.ir.kernel import Target
from composer.graph.passes.self_test import checked_kernels, run_check, self_test

pytest.importorskip("triton")
check = pytest.importorskip("blocks.depth_attention.check", exc_type=ImportError)

OPERATIONS = [
    None,
    WriteKV(2, 40),
    Attend(6, 2, 40, "inclusive"),
    Attend(8, 1, 16, "exclusive"),
    RotaryWriteKV(2, 48),
    RotaryAttend(3, 1, 80, "inclusive"),
]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.gpu)])
def test_right_kernels_pass(where, operation, dtype):
    if where == "cpu" and dtype == "bfloat16":
        pytest.skip("the interpreter has no bf16")
    before = torch.get_rng_state()
    with torch.autocast(where, torch.bfloat16), torch.inference_mode():
        assert check.check(operation, Target(where, dtype)) == ""
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("attend_forward", "output (push)"),
        ("attend_backward", "gradient of the query (push)"),
        ("pull", "gradient of keys (pull)"),
    ],
)
@pytest.mark.parametrize("wrong", [1.01, float("nan")])
def test_wrong_kernels_are_told(where, monkeypatch, function, told, wrong):
    right = getattr(check.kernel, function)

    def off(*given, **named):
        first, *others = right(*given, **named)
        return first * wrong, *others

    monkeypatch.setattr(check.kernel, function, off)
    assert check.check(None, Target(where)).startswith(f"{told} is off by ")


def test_all_fused_kernels_have_a_check():
    found = {(kind, kernel.name) for kind, kernel in checked_kernels()}
    assert {(WriteKV, "triton_append"), (Attend, "triton_attend")} <= found


def test_a_self_test_runs_once_in_a_process_and_warns_of_what_fails(monkeypatch):
    calls = []

    def crash(operation, target):
        calls.append(operation)
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setattr(check, "check", crash)
    kernel, target = replace(Attend.kernels[0], name="triton_crash"), Target("cuda", here=True)
    first, later = (Attend(4, 2, 8, "inclusive", reads=replace(Attend.reads, base=n)) for n in (1, 2))
    with pytest.warns(UserWarning, match=r"triton_crash is not used, .*composer doctor"):
        told = self_test(kernel, first, target)
    assert told == "its self-test fails: RuntimeError: no such instruction"
    assert self_test(kernel, later, target) == told
    assert calls == [Attend(4, 2, 8, "inclusive", fused=True)]
    assert run_check(kernel, None, target) == "RuntimeError: no such instruction"


def test_what_is_not_at_hand_is_not_tried(monkeypatch):
    monkeypatch.setattr(check, "check", lambda *given: pytest.fail("tried"))
    assert self_test(Attend.kernels[0], OPERATIONS[2], Target("cuda")) == ""
