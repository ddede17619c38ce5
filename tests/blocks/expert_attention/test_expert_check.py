"""The self-test of expert kernels passes where they are right, and tells what is off elsewhere."""

import pytest
import torch

from blocks.expert_attention.fused_operations import RoutedExperts
from blocks.ir.kernel import Target
from composer.graph.passes.choose_kernels import first_fit
from composer.graph.passes.self_test import checked_kernels

check = pytest.importorskip("blocks.expert_attention.check", exc_type=ImportError)

OPERATIONS = [None, RoutedExperts(16, 5, 5, 8, 0.0), RoutedExperts(40, 100, 1, 24, 0.0)]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.gpu)])
def test_right_kernels_pass(where, operation, dtype):
    if where == "cpu" and dtype == "bfloat16":
        pytest.skip("the interpreter has no bf16")
    before = torch.get_rng_state()
    with torch.autocast(where, torch.bfloat16), torch.inference_mode():
        assert check.check_sums(operation, Target(where, dtype)) == ""
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("wrong", [1.01, float("nan")])
@pytest.mark.parametrize(
    ("module", "function", "told"),
    [
        ("route_kernel", "route_backward", "gradient of the logits"),
        ("library", "experts", "output"),
        ("library", "experts_backward", "gradient of the input"),
        ("library", "expert_weights", "gradient of gate and up over steps"),
    ],
)
def test_wrong_kernels_are_told(where, monkeypatch, module, function, told, wrong):
    place = getattr(check, module)
    right = getattr(place, function)

    def off(*given):
        made = right(*given)
        return made * wrong if isinstance(made, torch.Tensor) else (made[0] * wrong, *made[1:])

    monkeypatch.setattr(place, function, off)
    assert check.check_sums(None, Target(where)).startswith(f"{told} is off by ")


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("indices", "chosen experts: "),
        ("order", "order of rows: "),
        ("place", "places of rows: "),
        ("ends", "ends of experts: "),
    ],
)
def test_a_wrong_number_is_told(where, monkeypatch, field, told):
    right = check.route_kernel.route

    def off(*given):
        found = right(*given)
        getattr(found, field).view(-1)[3] += 1
        return found

    monkeypatch.setattr(check.route_kernel, "route", off)
    assert check.check(None, Target(where)).startswith(f"{told}1 of ")


def test_the_kernels_have_checks():
    found = {kernel.name for kind, kernel in checked_kernels() if issubclass(kind, RoutedExperts)}
    names = ("triton_experts", "triton_experts_rotated")
    assert found == {f"{name}{end}" for name in names for end in ("", "_summed", "_gathered")}


def test_where_products_of_weights_are_wrong_those_of_torch_run(monkeypatch):
    monkeypatch.setattr("composer.graph.passes.choose_kernels.self_test", _wrong_sums)
    assert first_fit(RoutedExperts(16, 5, 2, 8, 0.0), Target("cuda")).name == "triton_experts"


def _wrong_sums(kernel, operation, target):
    wrong = kernel.check.endswith(("check_sums", "check_gathered"))
    return "its self-test fails" if wrong else ""
