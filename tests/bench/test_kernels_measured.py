"""Kernels of our own are measured and tuned where they run; here that is Triton's interpreter."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from blocks.depth_attention import tiles
from blocks.depth_attention.operations import Attend, WriteKV
from blocks.expert_attention import reference
from blocks.expert_attention.fused_operations import RoutedExperts
from blocks.ir.kernel import Kernel
from blocks.kernels.tiles import Tiles
from composer.bench import tile_tables, tune
from composer.bench.measuring import setting
from composer.bench.measuring.clocks import wall
from composer.bench.measuring.machine import Rates
from composer.bench.measuring.setting import Setting
from composer.bench.parts import depth, operations, routing, weight_gradients
from composer.bench.parts.step import pointwise
from composer.cli.main import main

pytest.importorskip("blocks.depth_attention.kernel", exc_type=ImportError)

HERE = Setting(
    torch.device("cpu"), torch.float32, False, 1, wall, Rates(1e10, 1e11), compiles=False, warmup=1
)
SIZE = depth.Size(5, 2, 1, 8)


def anywhere(kernel: Kernel) -> Kernel:
    return replace(kernel, unfit=lambda operation, target: "", check="")


@pytest.fixture
def interpreted(monkeypatch):
    """Have the kernels of depth attention run on a CPU."""
    if not pytest.importorskip("triton").knobs.runtime.interpret:
        pytest.skip("kernels are compiled here")
    for kind in (WriteKV, Attend):
        monkeypatch.setattr(kind, "kernels", tuple(map(anywhere, kind.kernels)))
    monkeypatch.setattr("blocks.depth_attention.fused.fits", lambda tensor: True)


def test_depth_attention_is_measured_by_its_kernel_both_ways_backward(interpreted):
    (forward,), (loop,) = (
        [row for row in depth.measured(case, HERE) if row.ours][:1]
        for case in (depth.forward(SIZE, 2, HERE), depth.both(SIZE, 2, HERE))
    )
    assert forward.name == loop.name == "composer, triton_attend"
    rows = {row.name: row for row in depth.measured(depth.loop(SIZE, 2, HERE), HERE)}
    pull, push = (rows[f"composer, triton_attend, {way}"] for way in ("pull", "push"))
    assert not pull.note + push.note
    assert pull.moved != push.moved


@pytest.mark.parametrize("way", ["pull", "push", None])
def test_what_is_timed_is_the_gradient(interpreted, way):
    drawn = depth.Drawn(SIZE, 2, HERE)
    plain = depth.Fitting("plain", depth.reference.append, depth.reference.attend)
    with depth.forced(way):
        result = depth.looped(drawn, depth.fitting(SIZE, HERE))()
    for got, expected in zip(result, depth.looped(drawn, plain)(), strict=True):
        torch.testing.assert_close(got, expected)
    # ordinary code, too
    run = drawn.by_hand(depth.stacked_einsum, [*drawn.listed[0], *drawn.listed[1]], listed=True)
    ours = drawn.ours(plain, backward=True)
    for got, expected in zip(run(), ours(), strict=True):
        torch.testing.assert_close(got, expected)


def depth_table():
    return next(each for each in tile_tables.tables() if each.module is tiles)


def test_all_tables_are_found_by_what_they_hold():
    names = {each.key.removeprefix("blocks.") for each in tile_tables.tables()}
    experts = {f"expert_attention.tiles.MEASURED{kind}" for kind in ("", "_PRODUCTS", "_GATHERED")}
    assert names >= {"depth_attention.tiles.MEASURED", "wiring.loss.cross_entropy.tiles.MEASURED"} | experts


def test_tiles_are_tried_held_to_the_reference_and_written_as_a_patch_that_applies(
    interpreted, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(depth, "SMALL", (SIZE,))
    monkeypatch.setattr(tune, "tuned", partial(tune.tuned, candidates=2))
    monkeypatch.setattr(tile_tables, "_SAME", 0)
    monkeypatch.setattr(setting, "here", lambda *given, **named: HERE)
    before, out = dict(tiles.MEASURED), tmp_path / "tiles.json"
    assert main(["bench", "--tune", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert {row["table"] for row in rows} == {depth_table().key}
    assert all((row["tried"], row["right"]) == (2, 2) and row["faster"] >= 1 for row in rows)
    assert before == tiles.MEASURED
    (tmp_path / "blocks" / "depth_attention").mkdir(parents=True)
    copy = tmp_path / "blocks" / "depth_attention" / "tiles.py"
    copy.write_text(Path(tiles.__file__).read_text())
    subprocess.run(["git", "apply", "tiles.patch"], cwd=tmp_path, check=True, timeout=60)
    named = {"__name__": "applied"}
    exec(copy.read_text(), named)
    by_name = {repr(shape): repr(tile) for shape, tile in named["MEASURED"].items()}
    assert by_name == {row["shape"]: row["tile"] for row in rows}
    # another call begins where it ended
    shown = capsys.readouterr().out
    assert main(["bench", "--tune", "--json", str(out)]) == 0
    assert json.loads(out.read_text()) == rows
    assert capsys.readouterr().out in shown


def test_a_patch_adds_to_a_table_and_leaves_out_tiles_that_are_wrong_or_no_faster(monkeypatch, tmp_path):
    source = tmp_path / "some.py"
    source.write_text("MEASURED: dict[int, int] = {\n    1: 2,\n}\nX = {}\n")
    module = SimpleNamespace(__name__="some", __file__=str(source))
    table = tile_tables.Table(module, "MEASURED", Tiles(lambda shape: 0, {1: 2}))
    monkeypatch.setattr(tile_tables, "tables", lambda: [table])
    results = [
        tile_tables.TunedTile(table, shape, 10 * shape, right, 4, faster)
        for shape, right, faster in ((3, 4, 1.5), (4, 0, 1.0), (5, 4, 1.0))
    ]
    patch = "".join(tile_tables.patch(tile_tables.as_rows(results), "a device"))
    added = [line for line in patch.splitlines() if line.startswith(("+ ", "- "))]
    assert added == ["+    # measured on a device", "+    3: 30,"]
    assert str(results[1]).endswith("in use and WRONG")


def test_a_tile_that_makes_something_else_is_not_taken(interpreted, monkeypatch):
    monkeypatch.setattr(depth, "SMALL", (SIZE,))
    table, work = depth_table(), next(each for each in tune.works(HERE) if each.name == "depth attention")
    shape = tune.asked(work, [table])[0][1]
    now = tiles.tile(shape)
    wrong = now._replace(tokens=2 * now.tokens)

    def run():
        made = work.run()
        return [2 * each for each in made] if tiles.tile.measured.get(shape) == wrong else made

    monkeypatch.setattr(tune, "around", lambda tile, kernel: [now, wrong])
    result = tune.best(work._replace(run=run), table, shape, HERE, None)
    assert (result.tile, result.right, result.tried) == (now, 1, 2)
    # none is timed where what is in use is wrong, or does not run
    for expected in ([0 * each for each in work.expected], []):
        bad = tune.best(work._replace(run=run, expected=expected), table, shape, HERE, None)
        assert (bad.tile, bad.right) == (now, 0)


def test_the_gradients_of_experts_are_tuned_by_the_kernel_that_gathers(monkeypatch):
    if not pytest.importorskip("triton").knobs.runtime.interpret:
        pytest.skip("kernels are compiled here")
    table = next(each for each in tile_tables.tables() if each.name == "MEASURED_PRODUCTS")
    works = [*weight_gradients.works(routing.Size(20, 16, 3, 2, 8), HERE)]
    shapes = [shape for work in works for _, shape in tune.asked(work, [table])]
    assert [(each.left, each.right) for each in shapes] == [(16, 16), (8, 16)]
    for work in works:
        for got, expected in zip(work.run(), work.expected, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_experts_with_torchs_first_product_are_another_contestant():
    operation = RoutedExperts(32, 4, 2, 8, 0.1)
    gathering, summed = operation.kernels[:2]
    made = gathering.specialize(operation)
    assert "gathered" in made.arguments()
    for kernel in operation.kernels[1:]:
        assert kernel.specialize(made) == kernel.specialize(operation)
        assert "gathered" not in kernel.specialize(made).arguments()
    call = operations.Call("experts", made, gathering, (), (), made.arguments())
    on_gpu = replace(HERE, device=torch.device("cuda"), dtype=torch.bfloat16)
    with_check = replace(summed, check="", unfit=lambda operation, target: "")
    operation_kernels = (gathering, with_check, operation.kernels[-1])
    object.__setattr__(made, "kernels", operation_kernels)
    assert [each.kernel for each in routing._with_torch([call], on_gpu)] == [with_check]
    assert routing._with_torch([replace(call, operation=operation)], on_gpu) == []


def test_every_field_of_a_tile_is_varied_within_bounds():
    near = tune.around(tiles.Tile(1, 16, 1), "forward")
    assert near[0] == tiles.Tile(1, 16, 1)
    assert len(near) == len(set(near))
    assert {tile.tokens for tile in near} == {1, 2}
    assert {tile.warps for tile in near} == {8, 16}
    assert {tile.stages for tile in near} == {1, 2, 3}


def test_an_operation_is_measured_on_what_the_model_gives_it():
    calls = {call.place: call for call in operations.calls_of(HERE)}
    norm = calls["stages.0.0.norm"]
    assert norm.floor is not None
    forward, both = (operations.case(norm, task, HERE) for task in ("forward", "forward + backward"))
    assert both.moved == pytest.approx(3 * forward.moved)
    made = operations.running(norm, norm.operation.kernels[0], True, HERE)()
    again = operations.running(norm, norm.operation.kernels[-1], True, HERE)()
    # output, gradient of the input, gradient of the gain
    assert len(made) == 3
    for one, other in zip(made, again, strict=True):
        torch.testing.assert_close(one, other)


def test_only_what_makes_no_product_is_pointwise():
    from composer.bench.measuring.spec import bench_spec

    names = {place.rsplit(".", 1)[-1] for place in pointwise(bench_spec(False, 2))}
    assert {"norm", "query_rotated"} <= names
    assert not names & {"query", "out", "experts", "route", "attend", "head"}


def test_the_measured_model_has_the_parameters_it_is_called_by():
    from composer.bench.measuring.spec import bench_spec
    from composer.costs.counting.plan import count

    costs = count(bench_spec(True, 16))
    assert round(costs.params / 1e6) == 173
    # 80,400 tokens per second were 114 TFLOP/s
    assert 3 * costs.flops_per_token.forward * 80_400 == pytest.approx(114e12, rel=0.01)


def test_the_block_written_eagerly_is_the_reference():
    """What experts are raced against routes, sorts and gates as they do."""
    size = routing.SMALL[0]
    draw = torch.Generator().manual_seed(0)
    x, keys = (torch.randn(n, size.width, generator=draw) for n in (size.tokens, size.experts))
    gate_up = torch.randn(size.experts, size.width, 2 * size.hidden, generator=draw)
    down = torch.randn(size.experts, size.hidden, size.width, generator=draw)
    balance, load = 0.1 * torch.randn(size.experts, generator=draw), torch.zeros(size.experts)
    got = routing.run_eagerly(x[None], keys, balance, load, gate_up, down, size.active)
    counted = torch.zeros_like(load)
    weights, indices = reference.route(x[None], keys, balance, counted, size.active)
    expected = reference.experts_plain(x[None], weights, indices, gate_up, down)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(load, counted)
