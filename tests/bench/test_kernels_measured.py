"""Kernels of our own are measured and tuned where they run; here that is Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from blocks.depth_attention import tiles
from blocks.depth_attention.operations import Attend, WriteKV
from blocks.expert_attention import reference
from blocks.ir.kernel import Kernel
from composer.bench import tune
from composer.bench.measuring.clocks import wall
from composer.bench.measuring.machine import Rates
from composer.bench.measuring.setting import Setting
from composer.bench.parts import depth, operations, routing
from composer.bench.parts.step import pointwise

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
        found = depth.looped(drawn, depth.fitting(SIZE, HERE))()
    for got, expected in zip(found, depth.looped(drawn, plain)(), strict=True):
        torch.testing.assert_close(got, expected)
    # ordinary code, too
    run = drawn.by_hand(depth.stacked_einsum, [*drawn.listed[0], *drawn.listed[1]], listed=True)
    ours = drawn.ours(plain, backward=True)
    for got, expected in zip(run(), ours(), strict=True):
        torch.testing.assert_close(got, expected)


def test_tiles_are_tried_held_to_the_reference_and_printed_as_code(interpreted, monkeypatch):
    monkeypatch.setattr(depth, "SMALL", (SIZE,))
    before = dict(tiles.MEASURED)
    found = [*tune.tuned(HERE, candidates=2)]
    assert {each.module for each in found} == {tiles}
    assert {each.shape.kernel for each in found} >= {"forward", "backward"}
    assert all((each.tried, each.right) == (2, 2) and each.faster >= 1 for each in found)
    assert before == tiles.MEASURED
    code = "\n".join(tune.as_code(tiles, found, "a machine"))
    named = {"Shape": tiles.Shape, "Tile": tiles.Tile}
    exec(code.replace(": dict[Shape, Tile]", ""), named)
    assert named["MEASURED"] == {each.shape: each.tile for each in found}


def test_a_tile_that_makes_something_else_is_not_taken(interpreted, monkeypatch):
    monkeypatch.setattr(depth, "SMALL", (SIZE,))
    work = next(tune.works(HERE))
    shape = tune.asked(work, [tiles])[0][1]
    now = tiles.tile(shape)
    wrong = now._replace(tokens=2 * now.tokens)

    def run():
        made = work.run()
        return [2 * each for each in made] if tiles.tile.measured.get(shape) == wrong else made

    monkeypatch.setattr(tune, "around", lambda tile, kernel: [now, wrong])
    found = tune.best(work._replace(run=run), tiles, shape, HERE, None)
    assert (found.tile, found.right, found.tried) == (now, 1, 2)
    # none is timed where what is in use is wrong, or does not run
    for expected in ([0 * each for each in work.expected], []):
        bad = tune.best(work._replace(run=run, expected=expected), tiles, shape, HERE, None)
        assert str(bad) == f"    # {shape}: {now}, is in use and WRONG"


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

    found = count(bench_spec(True, 16))
    assert round(found.params / 1e6) == 173
    # 80,400 tokens per second were 114 TFLOP/s
    assert 3 * found.flops_per_token.forward * 80_400 == pytest.approx(114e12, rel=0.01)


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
