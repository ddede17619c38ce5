"""Launches, bytes and FLOPs of training steps on a GPU, counted on fake tensors."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from composer.bench import kernel_shapes
from composer.bench.measuring.spec import bench_spec
from composer.bench.rivals.handwritten import HandWritten, sizes
from composer.cli.main import main
from composer.costs.time.devices import NAMED
from composer.language.load import load
from composer.launches import machine_code
from composer.launches.launches import Launch
from composer.launches.step import DependsOnData, decoding_launches, step_launches
from composer.launches.table import LEAST, modelled
from composer.settings.errors import UserError

SPECS = Path(__file__).parents[2] / "specs"
SHIPPED = sorted(path for path in SPECS.glob("*.yaml") if "space" not in path.name)
FAMILY = sorted((SPECS / "family").glob("*.yaml"))
# the small one has the structure of the tiny one
EVERY = [
    pytest.param(path, marks=[pytest.mark.slow] * (path in FAMILY or path.stem == "dreamer-small"))
    for path in [*SHIPPED, *FAMILY]
]
# who runs a step is told by the longest run of a batch
WAITS = {"mixture-of-recursions-token"}

# may only fall: launches forward and backward, GB read and written
BUDGET = {16: (389, 456, 66), 32: (709, 896, 129)}


@pytest.mark.parametrize("steps", [16, pytest.param(32, marks=pytest.mark.slow)])
def test_the_benchmarks_step_stays_within_its_budget(steps):
    launches = step_launches(bench_spec(True, steps))
    launched = Counter(each.phase for each in launches)
    forward, backward, gigabytes = BUDGET[steps]
    assert launched["forward"] <= forward
    assert launched["backward"] <= backward
    assert sum(each.bytes for each in launches) <= gigabytes * 1e9


def test_operators_have_the_names_that_users_call_them_by():
    names = {each.kernel for each in step_launches(load(SPECS / "dreamer-tiny.yaml"))}
    assert {"scaled_dot_product_attention", "scaled_dot_product_attention backward", "grouped_mm"} <= names
    assert not [name for name in names if name.startswith("_") or "for_cpu" in name]


def test_it_multiplies_as_much_as_the_model_written_by_hand():
    spec = bench_spec(True, 4)
    composed, by_hand = step_launches(spec), step_launches(spec, lambda: HandWritten(sizes(spec), "einsum"))
    flops = [sum(each.flops for each in result) for result in (composed, by_hand)]
    assert flops[0] == pytest.approx(flops[1], rel=0.01)
    assert len(composed) < len(by_hand)


def test_each_further_step_launches_as_much_as_the_one_before():
    two, three, four = (len(step_launches(bench_spec(False, steps))) for steps in (2, 3, 4))
    assert three - two == four - three > 0


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_a_cuda_graph_can_hold_the_step_of_every_spec_but_these(path):
    if path.stem in WAITS:
        with pytest.raises(DependsOnData, match="waits for the GPU"):
            step_launches(load(path))
    else:
        assert step_launches(load(path))


# of those that route tokens, which ones a step runs is told by the tokens
ROUTES = WAITS | {"mixture-of-recursions", "expert-choice"}


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_a_cuda_graph_can_hold_the_decoding_of_every_spec_but_these(path):
    if path.stem in ROUTES:
        with pytest.raises(UserError, match=r"waits for the GPU|depends on which tokens a step runs"):
            decoding_launches(load(path))
    else:
        assert decoding_launches(load(path))


# launches that each adds to four steps, forward and backward, and GB; may only fall
ADDED = {
    "blocks.depth.window=4": (0, 0, 0),
    "blocks.depth.stride=2": (0, 29, 0.5),
    "blocks.depth.bias=distance": (0, 1, 0.01),
    "model.residual={gate: channel}": (0, 3, 0.3),
    "model.residual={gate: token}": (3, 3, 0.7),
    "model.residual={streams: 4, mix: static}": (32, 116, 21),
    "model.residual={streams: 4}": (74, 176, 28),
    "model.residual={streams: 4, constrain: diagonal}": (74, 173, 28),
    "model.residual={streams: 4, constrain: doubly_stochastic}": (74, 176, 28),
    "model.residual={mix: static}": (32, 81, 13),
    "model.residual={mix: learned_query}": (32, 63, 13),
    "model.residual={mix: token}": (105, 186, 17),
    "model.residual={mix: relu_query}": (32, 116, 16),
}


QUICK = [*ADDED][:4]


@pytest.fixture(scope="module")
def plain():
    return step_launches(bench_spec(True, 4))


@pytest.mark.parametrize(
    "change", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in ADDED]
)
def test_what_options_of_depth_add_to_the_step_stays_within_a_budget(change, plain):
    forward, backward, gigabytes = ADDED[change]
    launches = step_launches(bench_spec(True, 4, change))
    more = Counter(each.phase for each in launches)
    more.subtract(each.phase for each in plain)
    assert more["forward"] <= forward
    assert more["backward"] <= backward
    assert sum(each.bytes for each in launches) - sum(each.bytes for each in plain) <= gigabytes * 1e9


def test_a_launch_takes_the_longest_of_its_bytes_its_products_and_the_least():
    gpu = NAMED["h100"]
    assert modelled(Launch("forward", "tiny", 1.0), gpu) == LEAST
    assert modelled(Launch("forward", "copy", 3e9), gpu) == 3e9 / gpu.bandwidth
    assert modelled(Launch("forward", "mm", 3e9, 1e13), gpu) == 1e13 / gpu.bf16
    assert modelled(Launch("forward", "mm, fp32", 3e9, 1e13, fp32=True), gpu) == 1e13 / gpu.fp32


def test_the_command_prints_both_tables(capsys):
    assert main(["launches", str(SPECS / "dreamer-tiny.yaml"), "--by-hand"]) == 0
    output = capsys.readouterr().out
    assert "composer, backward" in output
    assert "by hand, slots, step" in output
    assert "forward: primitives.add_norm" in output


CODE = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/               @P0 BRA `(.L_x_2) ;
.L_x_0:
        /*0030*/                   LDG.E.U16 R8, desc[UR4][R2.64] ;
        /*0040*/               @P1 BRA `(.L_x_0) ;
        /*0050*/               @P2 BRA `(.L_x_1) ;
.L_x_2:
        /*0060*/                   EXIT ;
.L_x_3:
        /*0070*/                   BRA `(.L_x_3);
"""


def test_loops_and_loads_are_read_from_machine_code():
    code = [*machine_code._instructions(CODE)]
    assert len(code) == 8
    assert [*machine_code._loops(code)] == [(3, 4), (1, 5)]
    assert [machine_code._loaded(each) for each in code] == [0, 16, 0, 2, 0, 0, 0, 0]


def test_loads_that_end_in_shared_memory_are_loads():
    lines = ("LDGSTS.E [R4], desc[UR4][R2.64]", "LDGSTS.E.BYPASS.128 [R4], desc[UR4][R2.64]", "LDGDEPBAR")
    assert [machine_code._loaded(machine_code._Instruction(0, line)) for line in lines] == [4, 16, 0]


def test_loops_run_once_for_two_slots_unless_their_gradients_are_written_or_no_heads_share_them():
    turns = machine_code._TURNS
    assert turns["depth_attention.forward"]({"reads": 5, "GROUP": 1}) == 3
    backward = turns["depth_attention.backward"]
    assert backward({"reads": 5, "GROUP": 4, "PUSH": False}) == 3
    assert backward({"reads": 5, "GROUP": 4, "PUSH": True}) == 5
    assert backward({"reads": 5, "GROUP": 1, "PUSH": False}) == 5
    rows = {"order_0": torch.empty(100), "total": torch.empty(4, 1, 1), "BLOCK_ROWS": 8}
    assert turns["expert_attention.add_products"](rows) == 4
    assert turns["streams.write_backward"]({"width": 2500, "BLOCK": 1024}) == 3


def test_a_multiprocessor_holds_what_registers_and_shared_memory_leave():
    assert machine_code._alive(registers=32, warps=4, shared=0) == 64
    assert machine_code._alive(registers=128, warps=4, shared=0) == 16
    assert machine_code._alive(registers=32, warps=4, shared=100 * 1024) == 8


@pytest.mark.slow
def test_no_kernel_of_the_benchmark_spills_and_all_but_two_have_wide_loads(tmp_path):
    script = (
        "import json; from composer.launches.machine_code import Compiled; "
        "from composer.launches.step import step_launches; "
        "from composer.bench.measuring.spec import bench_spec; found = Compiled(); "
        "step_launches(bench_spec(True, 16), watch=found); "
        "print(json.dumps([[each.name, each.spilled, each.widest] for each in found.codes.values()]))"
    )
    env = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(SPECS.parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=280, check=True
    )
    report = json.loads(done.stdout)
    assert len(report) > 10
    assert [name for name, spilled, _ in report if spilled] == []
    # masks of experts are bytes, and their sums 4
    narrow = {name for name, _, widest in report if widest < 16}
    assert narrow <= {"expert_attention.scan", "expert_attention.unchoose"}


def test_the_command_counts_a_step_of_generation(capsys):
    assert main(["launches", str(SPECS / "dreamer-tiny.yaml"), "--decode"]) == 0
    output = capsys.readouterr().out
    assert "composer, forward" in output
    assert "backward" not in output
    assert main(["launches", "--decode", "--by-hand"]) == 1
    assert "expected no --by-hand" in capsys.readouterr().err


def test_interpreted_kernels_have_no_code(monkeypatch, capsys):
    from triton import knobs

    monkeypatch.setattr(knobs.runtime, "interpret", True)
    assert main(["launches", str(SPECS / "dreamer-tiny.yaml"), "--machine-code"]) == 1
    assert "TRITON_INTERPRET" in capsys.readouterr().err


def test_what_launches_no_triton_kernel_has_no_code_to_show(monkeypatch, capsys):
    from triton import knobs

    monkeypatch.setattr(knobs.runtime, "interpret", False)
    line = ["launches", str(SPECS / "family" / "llama.yaml"), "--decode", "--machine-code"]
    assert main(line) == 0
    assert capsys.readouterr().out.endswith("launches no Triton kernels\n")


def test_all_shapes_are_those_of_no_spec(capsys):
    assert main(["launches", "--all-shapes", "--decode"]) == 1
    assert "expected no spec, --set, --by-hand or --decode" in capsys.readouterr().err


@pytest.mark.slow
def test_at_all_shapes_only_one_kernel_spills_and_that_in_fp32():
    script = (
        "import json; from composer.bench.kernel_shapes import machine_codes; "
        "print(json.dumps([[each.name, each.case, each.spilled] for each in machine_codes()]))"
    )
    env = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": str(SPECS.parent)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    of = {"self-test of triton", "bench depth", "bench routing", "bench kernels", "step of 16", "step with"}
    assert all(any(case.startswith(each) for _, case, _ in found) for each in of)
    spill = {(name, case.rpartition(", ")[2], spilled) for name, case, spilled in found if spilled}
    # of sums in fp32, a few bytes
    assert all((name, kind) == ("depth_attention.backward", "float32") for name, kind, _ in spill)
    assert all(spilled <= 16 for _, _, spilled in spill)


def test_cases_of_shapes_run_to_their_end_and_launch_triton_kernels():
    ran = dict(kernel_shapes.cases())
    for name in ("self-test of triton_experts_gathered, bfloat16", "self-test of triton_attend, float32"):
        launched = []
        ran[name](launched.append)
        assert launched, name
    # in fp32 nothing runs it
    assert "self-test of triton_experts_gathered, float32" not in ran
