"""Time estimates: what is counted, what binds, and devices that were calibrated."""

import json
from dataclasses import replace

import pytest
import torch
from cases import DEPTH, DREAMER, tree
from hypothesis import given
from models import shipped, tokens_for
from samples import samples
from strategies import make, specs
from torch.utils.flop_counter import FlopCounterMode

import composer
from composer import load
from composer.cli.main import main
from composer.costs.counting.plan import count, make_plan
from composer.costs.fitting.caps import excesses
from composer.costs.fitting.fit import fit
from composer.costs.time import calibrate
from composer.costs.time.devices import NAMED, Device, calibrations, device
from composer.costs.time.roofline import OPTIMIZER_PASSES, step_time
from composer.costs.tracing.traced_cost import Coster, measures
from composer.graph.compile import compile_graph
from composer.language.description.show import document
from composer.module.optimization.optimizer import make_optimizer

SLOW = Device(fp32=1e9, bf16=1e9, bandwidth=1e30)
NARROW = Device(fp32=1e30, bf16=1e30, bandwidth=1e9)


def estimate(spec, at):
    return step_time(spec, compile_graph(spec), at)


@samples(30)
@given(specs())
def test_where_bytes_are_free_time_is_that_of_the_flops(spec):
    costs, time = count(spec), estimate(spec, SLOW)
    flops = sum(row.share.forward + row.share.backward for row in costs.by_operation)
    assert time.seconds == pytest.approx(flops * time.tokens / 1e9, rel=1e-6)
    assert time.tokens == spec.model.context


@samples(30)
@given(specs())
def test_where_flops_are_free_every_row_waits_for_bytes_and_twice_backward(spec):
    time = estimate(spec, NARROW)
    assert {row.bound for row in time.rows} == {"bytes"}
    if "BackpropLast" not in repr(spec):
        assert all(row.backward == pytest.approx(2 * row.forward) for row in time.rows)
    assert time.bytes_share == pytest.approx(1)
    size = 4 * OPTIMIZER_PASSES * count(spec).params / 1e9
    assert time.optimizer == pytest.approx(size)


def test_overhead_is_the_least_an_operation_takes():
    time = estimate(make(DREAMER), replace(SLOW, fp32=1e30, overhead=1.0))
    assert {row.bound for row in time.rows} == {"overhead"}
    assert time.seconds == pytest.approx(2 * sum(row.executions for row in time.rows))


@pytest.mark.parametrize("span", ["inclusive", "exclusive"])
def test_depth_attention_reads_the_slots_it_reads(span, monkeypatch):
    from blocks.depth_attention import reference

    spec, moved, attend = (
        make(tree({"d": {**DEPTH, "span": span}}, {"recur": 5, "step": ["d"]})),
        [],
        reference.attend,
    )

    def spied(query, token, memory, reads):
        y = attend(query, token, memory, reads=reads)
        moved.append(query.nbytes + memory.keys[:reads].nbytes + memory.values[:reads].nbytes + y.nbytes)
        return y

    monkeypatch.setattr(reference, "attend", spied)
    composer.compile(spec)(tokens_for(spec, 1))
    (row,) = (row for row in estimate(spec, NARROW).rows if row.place.endswith("d.attend"))
    assert row.forward == pytest.approx(sum(moved) / 1e9)


def test_auto_is_bf16_where_that_is_faster_and_micro_batches_add_up():
    spec = shipped()["dreamer-small"]
    assert spec.train.precision == "auto"
    fast, slow = (estimate(spec, replace(NAMED["h100"], bf16=rate)) for rate in (687e12, 1e12))
    assert slow.seconds > 1.5 * fast.seconds
    assert fast.tokens == spec.train.tokens_per_step
    one = estimate(
        spec.model_copy(update={"train": spec.train.model_copy(update={"accumulate": 1})}), NAMED["h100"]
    )
    assert {row.executions * 4 for row in one.rows} == {row.executions for row in fast.rows}


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(calibrate, "SECONDS", 0.01)
    monkeypatch.setattr(calibrate, "_PRODUCTS", {"cpu": (16, 32)})
    monkeypatch.setattr(calibrate, "_COPIES", {"cpu": (1 << 12,)})


def test_calibration_replaces_and_adds_devices(quick, capsys):
    assert main(["calibrate", "--device", "cpu"]) == 0
    assert main(["calibrate", "--device", "cpu", "--name", "laptop"]) == 0
    out = capsys.readouterr().out
    assert out.count("fp32 products") == 2
    assert str(calibrations()) in out
    for name in ("cpu", "laptop"):
        assert device(name).source.startswith("measured: ")
        assert min(device(name).fp32, device(name).bf16, device(name).bandwidth, device(name).overhead) > 0
    assert device("h100") == NAMED["h100"]
    assert main(["cost", "--device", "laptop", *map(str, [spec_path()])]) == 0
    assert "a training step of 2.4k tokens on laptop" in capsys.readouterr().out


def spec_path():
    from pathlib import Path

    return Path(__file__).parents[2] / "specs" / "dreamer-tiny.yaml"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"cpu": {"fp32": 1}}', '{"cpu": 3}', "\udcff"])
def test_a_damaged_file_of_devices_is_told(quick, text, capsys):
    calibrations().parent.mkdir(parents=True)
    calibrations().write_bytes(text.encode("utf-8", "surrogateescape"))
    for line in (["cost", str(spec_path()), "--device", "cpu"], ["calibrate"]):
        assert main(line) == 1
        assert (
            f"{calibrations()}: expected devices as `composer calibrate` writes them"
            in capsys.readouterr().err
        )


def test_unknown_devices_and_missing_ones_are_told(capsys):
    assert main(["cost", str(spec_path()), "--device", "h10"]) == 1
    assert (
        "expected a device, one of h100, h200, a100, cpu, got 'h10' (did you mean h100?)"
        in capsys.readouterr().err
    )
    assert main(["calibrate", "--device", "cuda"]) == 1
    assert "expected a CUDA device, got a machine without one" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["", ", hard: 1s"])
def test_under_a_cap_on_time_one_function_costs_every_width(limit):
    caps = f"caps={{step_time: {{device: h100{limit}}}}}"
    coster, tree = Coster(), document(load(spec_path(), [caps]))
    for width in range(24, 97, 24):
        other = {**tree, "model": {**tree["model"], "width": width}}
        assert coster(other) == measures(count(make(other)))
    assert [len(runs) for runs in coster._known.values()] == [1]


def test_fit_sees_what_a_soft_cap_on_memory_recomputes():
    spec = load(spec_path(), ["caps={train_memory: {soft: 40MiB}}"])
    graphs = [make_plan(spec, recompute=marks).on_device("cuda").graph for marks in ((), None)]
    kept, again = (step_time(spec, graph, NAMED["h100"]).seconds for graph in graphs)
    assert kept < again
    limit = {"device": "h100", "hard": (kept + again) / 2}
    tight = load(spec_path(), [f"caps={{train_memory: {{soft: 40MiB}}, step_time: {json.dumps(limit)}}}"])
    assert [excess.cap for excess in excesses(tight, count(tight))] == ["step_time"]
    fitted = fit(tight)
    assert fitted.moves
    assert excesses(fitted.spec, count(fitted.spec)) == []


def test_json_holds_the_estimate(capsys):
    assert main(["cost", str(spec_path()), "--device", "a100", "--json"]) == 0
    step = json.loads(capsys.readouterr().out)["step"]
    rows = sum(row["forward"] + row["backward"] for row in step["rows"])
    assert step["seconds"] == pytest.approx(rows + step["optimizer"])


def test_on_a_gpu_time_is_that_of_the_fused_plan(capsys):
    assert main(["cost", str(spec_path()), "--device", "h100"]) == 0
    fused = capsys.readouterr().out
    assert main(["cost", str(spec_path()), "--device", "cpu"]) == 0
    plain = capsys.readouterr().out
    assert "RotaryAttend" in fused
    assert "RotaryAttend" not in plain


@pytest.mark.parametrize("name", ["h100", "cpu"])
@pytest.mark.parametrize("memory", ["", "train_memory: {soft: 40MiB}, "])
def test_a_cap_goes_by_the_estimate_that_is_shown(name, memory, capsys):
    caps = f"caps={{{memory}step_time: {{device: {name}}}}}"
    assert main(["cost", str(spec_path()), "--set", caps, "--device", name, "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["step_time"] == output["step"]["seconds"]
    assert bool(output["recomputed"]) == bool(memory)


def test_the_update_of_muon_takes_its_newton_schulz_products_as_well():
    data = {"task": "hop", "length": 8, "symbols": 8, "hops": 1}
    trained = {"data": data, "tokens": 640, "batch_tokens": 64}
    update = {}
    for name in ("adamw", "muon"):
        spec = make({**DREAMER, "train": {**trained, "optimizer": name}})
        update[name] = estimate(spec, SLOW).optimizer
    # what torch itself multiplies
    model = composer.compile(spec)
    optimizer = make_optimizer(model.named_parameters(), model.plan.graph, spec.train)
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    assert update["muon"] - update["adamw"] == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-6)
    waiting = estimate(spec, replace(SLOW, bf16=1e30, overhead=1.0)).optimizer
    assert waiting % 15 == pytest.approx(0)
    assert waiting > 0
