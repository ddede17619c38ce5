"""The self-tests of kernels pass where these are right, and name what is wrong elsewhere."""

from dataclasses import replace

import pytest
import torch

from blocks.depth_attention.operations import Attend, RotaryAttend, RotaryWriteKV, WriteKV
from blocks.depth_attention.windowed import BiasedAttend, RotaryBiasedAttend
from blocks.expert_attention.fused_operations import RoutedExperts
from blocks.ir.kernel import Target
from blocks.primitives.fused_operations import AddNorm, NormRotate
from blocks.primitives.operations import Rotate
from blocks.wiring.residual.streams.operations import MapAndRead, ReadStreams, StreamMaps, WriteStreams
from composer.graph.passes.choose_kernels import first_fit
from composer.graph.passes.self_test import checked_kernels, run_check, self_test

pytest.importorskip("triton")
depth = pytest.importorskip("blocks.depth_attention.check", exc_type=ImportError)
experts = pytest.importorskip("blocks.expert_attention.check", exc_type=ImportError)
core = pytest.importorskip("blocks.primitives.check", exc_type=ImportError)
streams = pytest.importorskip("blocks.wiring.residual.streams.check", exc_type=ImportError)

ATTEND = Attend(6, 2, 40, "inclusive")
OPERATIONS = [
    (depth.check, None),
    (depth.check, WriteKV(2, 40)),
    (depth.check, ATTEND),
    (depth.check, Attend(8, 1, 16, "exclusive")),
    (depth.check, RotaryWriteKV(2, 48)),
    (depth.check, RotaryAttend(3, 1, 80, "inclusive")),
    (depth.check_biased, None),
    (depth.check_biased, BiasedAttend(6, 2, 40, "inclusive")),
    (depth.check_biased, RotaryBiasedAttend(3, 1, 80, "inclusive")),
    (experts.check_sums, None),
    (experts.check_sums, RoutedExperts(16, 5, 5, 8, 0.0)),
    (experts.check_sums, RoutedExperts(40, 100, 1, 24, 0.0)),
    (core.check_add_norm, None),
    (core.check_add_norm, AddNorm((40,), shared=True)),
    (core.check_rotary, None),
    (core.check_rotary, Rotate((3, 48))),
    (core.check_rotary, NormRotate((1, 80))),
    (streams.check_maps, None),
    (streams.check_maps, StreamMaps(40, 3, "doubly_stochastic")),
    (streams.check_map_and_read, None),
    (streams.check_map_and_read, MapAndRead(40, 3, "diagonal")),
    (streams.check_read, None),
    (streams.check_read, ReadStreams(40, 3, True, "diagonal")),
    (streams.check_write, None),
    (streams.check_write, WriteStreams(40, 3, True, "diagonal")),
    (streams.check_write, WriteStreams(40, 3, False, "diagonal")),
]
WRONG = [
    (depth.check, depth.kernel, "attend_forward", "output (push)"),
    (depth.check, depth.kernel, "attend_backward", "gradient of the query (push)"),
    (depth.check, depth.pull_kernel, "pull", "gradient of keys (pull)"),
    (depth.check_biased, depth, "summed_shares", "gradient of the bias (push)"),
    (experts.check_sums, experts.route_kernel, "route_backward", "gradient of the logits"),
    (experts.check_sums, experts.library, "experts", "output"),
    (experts.check_sums, experts.library, "experts_backward", "gradient of the input"),
    (experts.check_sums, experts.library, "expert_weights", "gradient of gate and up over steps"),
    (core.check_add_norm, core.norm_kernel, "add_norm_forward", "norm"),
    (core.check_add_norm, core.norm_kernel, "add_norm_backward", "gradient of the first term"),
    (core.check_rotary, core.rotary_kernel, "rotate_forward", "turned: output"),
    (core.check_rotary, core.rotary_kernel, "rotate_backward", "turned: gradient of the input"),
    (streams.check_maps, streams.fused.maps_kernel, "maps_forward", "none: output"),
    (streams.check_maps, streams.fused.maps_kernel, "maps_backward", "none: gradient of the streams"),
    (
        streams.check_map_and_read,
        streams.fused.gradient_kernel,
        "map_and_read_backward",
        "none: gradient of the streams",
    ),
    (
        streams.check_map_and_read,
        streams.fused.mix_kernel,
        "read_products",
        "none: gradient of the streams",
    ),
    (streams.check_read, streams.fused.mix_kernel, "read", "output"),
    (streams.check_read, streams.fused.mix_kernel, "read_backward", "gradient of the streams"),
    (streams.check_write, streams.fused.mix_kernel, "write", "output"),
    (streams.check_write, streams.fused.mix_kernel, "write_backward", "gradient of the streams"),
]


@pytest.mark.parametrize(("check", "operation"), OPERATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.gpu)])
def test_right_kernels_pass(where, check, operation, dtype):
    before = torch.get_rng_state()
    with torch.autocast(where, torch.bfloat16), torch.inference_mode():
        assert check(operation, Target(where, dtype)) == ""
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("wrong", [1.01, float("nan")])
@pytest.mark.parametrize(("check", "module", "function", "message"), WRONG)
def test_wrong_kernels_are_named(where, monkeypatch, check, module, function, message, wrong):
    right = getattr(module, function)

    def off(*given, **named):
        made = right(*given, **named)
        return made * wrong if isinstance(made, torch.Tensor) else (made[0] * wrong, *made[1:])

    monkeypatch.setattr(module, function, off)
    assert check(None, Target(where)).startswith(f"{message} is off by ")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("indices", "chosen experts: "),
        ("order", "order of rows: "),
        ("place", "places of rows: "),
        ("ends", "ends of experts: "),
    ],
)
def test_a_wrong_number_of_a_route_is_named(where, monkeypatch, field, message):
    right = experts.route_kernel.route

    def off(*given):
        routed = right(*given)
        getattr(routed, field).view(-1)[3] += 1
        return routed

    monkeypatch.setattr(experts.route_kernel, "route", off)
    assert experts.check(None, Target(where)).startswith(f"{message}1 of ")


def test_all_fused_kernels_have_a_check():
    checked = {(kind, kernel.name) for kind, kernel in checked_kernels()}
    expected = {
        (WriteKV, "triton_append"),
        (Attend, "triton_attend"),
        (AddNorm, "triton_add_norm"),
        (NormRotate, "triton_norm_rotate"),
        (Rotate, "triton_rotate"),
        (StreamMaps, "triton_maps"),
        (MapAndRead, "triton_map_and_read"),
        (ReadStreams, "triton_read"),
        (WriteStreams, "triton_write"),
    }
    assert expected <= checked
    names = ("triton_experts", "triton_experts_rotated")
    of_experts = {name for kind, name in checked if issubclass(kind, RoutedExperts)}
    assert of_experts == {f"{name}{end}" for name in names for end in ("", "_summed", "_gathered")}


def test_where_products_of_weights_are_wrong_those_of_torch_run(monkeypatch):
    monkeypatch.setattr("composer.graph.passes.choose_kernels.self_test", _wrong_sums)
    assert first_fit(RoutedExperts(16, 5, 2, 8, 0.0), Target("cuda")).name == "triton_experts"


def _wrong_sums(kernel, operation, target):
    wrong = kernel.check.endswith(("check_sums", "check_gathered"))
    return "its self-test fails" if wrong else ""


def test_a_self_test_runs_once_in_a_process_and_warns_of_what_fails(monkeypatch):
    calls = []

    def crash(operation, target):
        calls.append(operation)
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setattr(depth, "check", crash)
    kernel, target = replace(Attend.kernels[0], name="triton_crash"), Target("cuda", here=True)
    first, later = (Attend(4, 2, 8, "inclusive", reads=replace(Attend.reads, base=n)) for n in (1, 2))
    with pytest.warns(UserWarning, match=r"triton_crash is not used, .*composer doctor"):
        fault = self_test(kernel, first, target)
    assert fault == "its self-test fails: RuntimeError: no such instruction"
    assert self_test(kernel, later, target) == fault
    assert calls == [Attend(4, 2, 8, "inclusive", fused=True)]
    assert run_check(kernel, None, target) == "RuntimeError: no such instruction"


def test_kernels_of_absent_devices_are_not_tried(monkeypatch):
    monkeypatch.setattr(depth, "check", lambda *given: pytest.fail("tried"))
    assert self_test(Attend.kernels[0], ATTEND, Target("cuda")) == ""
