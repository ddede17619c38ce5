"""Launches, bytes and FLOPs of training steps on a GPU, counted on fake tensors."""

from collections import Counter
from pathlib import Path

import pytest

from composer.bench.counting.launches import Launch
from composer.bench.counting.step import DependsOnData, step_launches
from composer.bench.counting.table import LEAST, modelled
from composer.bench.measuring.spec import bench_spec
from composer.cli.main import main
from composer.costs.time.devices import NAMED
from composer.language.load import load

SPECS = Path(__file__).parents[2] / "specs"
SHIPPED = sorted(path for path in SPECS.glob("*.yaml") if "space" not in path.name)
FAMILY = sorted((SPECS / "family").glob("*.yaml"))
# who runs a step is told by the longest run of a batch
WAITS = {"mixture-of-recursions-token"}

# may only fall: launches forward and backward, GB read and written
BUDGET = {16: (483, 761, 91), 32: (883, 1513, 178)}


@pytest.mark.parametrize("steps", [16, pytest.param(32, marks=pytest.mark.slow)])
def test_the_benchmarks_step_stays_within_its_budget(steps):
    found = step_launches(bench_spec(True, steps))
    launched = Counter(each.phase for each in found)
    forward, backward, gigabytes = BUDGET[steps]
    assert launched["forward"] <= forward
    assert launched["backward"] <= backward
    assert sum(each.bytes for each in found) <= gigabytes * 1e9


def test_it_multiplies_as_much_as_the_model_written_by_hand():
    spec = bench_spec(True, 4)
    composed, by_hand = step_launches(spec), step_launches(spec, "einsum")
    flops = [sum(each.flops for each in found) for found in (composed, by_hand)]
    assert flops[0] == pytest.approx(flops[1], rel=0.01)
    assert len(composed) < len(by_hand)


def test_each_further_step_launches_as_much_as_the_one_before():
    two, three, four = (len(step_launches(bench_spec(False, steps))) for steps in (2, 3, 4))
    assert three - two == four - three > 0


@pytest.mark.parametrize(
    "path", [*SHIPPED, *(pytest.param(path, marks=pytest.mark.slow) for path in FAMILY)], ids=lambda p: p.stem
)
def test_a_cuda_graph_can_hold_the_step_of_every_spec_but_these(path):
    if path.stem in WAITS:
        with pytest.raises(DependsOnData, match="waits for the GPU"):
            step_launches(load(path))
    else:
        assert step_launches(load(path))


def test_a_launch_takes_the_longest_of_its_bytes_its_products_and_the_least():
    gpu = NAMED["h100"]
    assert modelled(Launch("forward", "tiny", 1.0), gpu) == LEAST
    assert modelled(Launch("forward", "copy", 3e9), gpu) == 3e9 / gpu.bandwidth
    assert modelled(Launch("forward", "mm", 3e9, 1e13), gpu) == 1e13 / gpu.bf16
    assert modelled(Launch("forward", "mm, fp32", 3e9, 1e13, fp32=True), gpu) == 1e13 / gpu.fp32


def test_the_command_prints_both_tables(capsys):
    assert main(["launches", str(SPECS / "dreamer-tiny.yaml"), "--by-hand"]) == 0
    told = capsys.readouterr().out
    assert "composer, backward" in told
    assert "by hand, slots, step" in told
    assert "forward: add_norm (Triton)" in told
