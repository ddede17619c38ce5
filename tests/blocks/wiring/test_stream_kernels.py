"""Residual streams by Triton kernels: outputs, gradients and costs, at odd sizes."""

import gc

import pytest
import torch
from cases import FFN, SEQ, tree
from depth_kernels import check as near
from models import check_same_training, check_saved, gradients, shake, tokens_for
from strategies import make

import composer
from blocks.ir.costs import CostContext, IOBytes
from blocks.ir.kernel import Target
from blocks.ir.walk import graphs, operations
from blocks.wiring.residual.streams import by_autograd, reference
from blocks.wiring.residual.streams.operations import MapAndRead, ReadStreams, StreamMaps, WriteStreams
from blocks.wiring.residual.streams.tiles import Shape, Tile, padded, tile
from composer.graph.compile import compile_graph
from composer.graph.passes.choose_kernels import first_fit, unfit
from composer.graph.passes.mark_recompute import recomputable
from composer.module.model import ComposedModel
from composer.testing.memory import LiveBytes

pytest.importorskip("triton")
check = pytest.importorskip("blocks.wiring.residual.streams.check", exc_type=ImportError)
from blocks.wiring.residual.streams import fused, maps_kernel, mix_kernel  # noqa: E402

GPU = Target("cuda")
KINDS = ("none", "diagonal", "doubly_stochastic")
DTYPE = [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
# batch, sequence, streams, width
SIZES = {
    "one token and stream": (1, 1, 1, 6),
    "two streams": (2, 5, 2, 10),
    "three streams": (1, 3, 3, 1025),
    "five streams": (3, 3, 5, 7),
    "eight streams": (1, 2, 8, 33),
}


def drawn(where, dtype, *shapes):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw).to(where, dtype) for shape in shapes]


def run(module, name, given, gradient, *arguments, dtype=None):
    """The output of a function and the gradients of all it is given."""
    leaves = [each.detach().to(dtype).requires_grad_() for each in given]
    made = getattr(module, name)(*leaves, *arguments)
    return [made.detach(), *torch.autograd.grad(made, leaves, gradient.to(made.dtype))]


def equal_to_fp64(name, given, gradient, *arguments):
    results = run(fused, name, given, gradient, *arguments)
    near(results, run(by_autograd, name, given, gradient, *arguments, dtype=torch.float64), gradient.dtype)
    assert all(map(torch.equal, results, run(fused, name, given, gradient, *arguments)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPE)
@pytest.mark.parametrize("size", SIZES)
def test_maps_equal_fp64(here, size, dtype, kind):
    batch, sequence, n, width = SIZES[size]
    operation = StreamMaps(width, n, kind)
    base, projection = (n, operation.columns), operation.weight_shapes()[0]
    shapes = (SIZES[size], projection, base[1:], base, (batch, sequence, *base))
    h, weight, *given, gradient = drawn(here, dtype, *shapes)
    given = [h, weight * projection[1] ** -0.5, *given]
    equal_to_fp64(operation.function, given, gradient)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_maps_with_reading_equal_fp64(here, size, kind):
    _, _, n, width = SIZES[size]
    assert check.check_map_and_read(MapAndRead(width, n, kind), Target(here)) == ""


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("dtype", DTYPE)
@pytest.mark.parametrize("size", SIZES)
def test_reading_and_writing_equal_fp64(here, size, dtype, diagonal):
    batch, sequence, n, width = SIZES[size]
    token = (batch, sequence, width)
    maps = (batch, sequence, n, 3 if diagonal else 2 + n)
    shapes = (SIZES[size], SIZES[size], token, token, maps, (n,), (n,), (n,) if diagonal else (n, n))
    h, to_h, y, to_x, maps, read, write, mix = drawn(here, dtype, *shapes)
    equal_to_fp64("read_dynamic", [h, maps], to_x)
    equal_to_fp64("read_static", [h, read], to_x)
    equal_to_fp64("write_dynamic", [h, y, maps], to_h, diagonal)
    equal_to_fp64("write_static", [h, y, write, mix], to_h)


def test_each_program_goes_through_several_blocks(here, monkeypatch):
    monkeypatch.setattr(mix_kernel, "tile", lambda shape: Tile(2, 4, 1))
    monkeypatch.setattr(mix_kernel, "PROGRAMS", 3)
    for diagonal in (False, True):
        test_reading_and_writing_equal_fp64(here, "two streams", torch.float32, diagonal)


def test_an_update_may_be_narrower_than_the_streams(here):
    h, gradient, maps, y = drawn(here, torch.float32, *[(1, 5, 3, 10)] * 2, (1, 5, 3, 5), (1, 5, 10))
    made, _, to_y, _ = run(reference, "write_dynamic", [h, y.half().float(), maps], gradient, False)
    narrow = y.half().requires_grad_()
    result = fused.write_dynamic(h, narrow, maps, False)
    torch.testing.assert_close(result.detach(), made)
    # in the dtype of the update
    torch.testing.assert_close(torch.autograd.grad(result, narrow, gradient)[0], to_y.half())


def test_streams_lie_as_those_of_the_reference_and_may_lie_otherwise(here):
    h, y, gradient, read, write, mix = drawn(
        here, torch.float32, (2, 5, 3, 8), (2, 5, 8), (2, 5, 3, 8), (3,), (3,), (3, 3)
    )
    apart = h.movedim(2, 0).contiguous().movedim(0, 2)
    for each in (h, apart):
        leaf = each.detach().requires_grad_()
        made = fused.write_static(leaf, y, write, mix)
        (to_h,) = torch.autograd.grad(made, leaf, gradient)
        wanted = reference.write_static(apart, y, write, mix)
        assert made.stride() == to_h.stride() == wanted.stride() == apart.stride()
        torch.testing.assert_close(made, wanted)
        torch.testing.assert_close(fused.read_static(leaf, read), reference.read_static(apart, read))


def test_no_token_is_no_work(here):
    h, maps, y = (torch.zeros(shape, device=here) for shape in ((2, 0, 3, 8), (2, 0, 3, 5), (2, 0, 8)))
    ones = torch.ones(3, device=here)
    weights = torch.ones(15, 24, device=here), torch.ones(5, device=here), torch.ones(3, 5, device=here)
    results = [
        *run(fused, "maps_doubly_stochastic", [h, *weights], maps)[2:],
        *run(fused, "read_static", [h, ones], y)[2:],
        *run(fused, "write_static", [h, y, ones, torch.ones(3, 3, device=here)], h)[3:],
    ]
    assert not any(each.any() for each in results)
    assert run(fused, "write_dynamic", [h, y, maps], h, False)[0].shape == h.shape


def test_more_streams_than_fit_into_registers_run_by_the_reference():
    for operation in (
        StreamMaps(8, 9, "none"),
        ReadStreams(8, 9, True, "none"),
        WriteStreams(8, 9, False, "none"),
    ):
        assert unfit(operation.kernels[0], operation, GPU) == "more than 8 streams"
        assert first_fit(operation, GPU).name == operation.kernels[1].name


def test_off_a_gpu_plain_pytorch_runs(monkeypatch):
    for kernels in (maps_kernel, mix_kernel):
        monkeypatch.setattr(kernels, "torch", None)
    h, maps, projection = drawn("cpu", torch.float32, (1, 2, 3, 8), (1, 2, 3, 5), (15, 24))
    assert torch.equal(fused.read_dynamic(h, maps), reference.read_dynamic(h, maps))
    given = h, projection, maps[0, 0, 0], maps[0, 0]
    assert torch.equal(fused.maps_doubly_stochastic(*given), reference.maps_doubly_stochastic(*given))


def test_all_streams_of_a_program_fit_its_threads():
    for n in range(1, 9):
        for width in (6, 1024, 2**23):
            rows, columns, warps = tile(Shape(90, n, width))
            assert rows & (rows - 1) == columns & (columns - 1) == 0
            assert rows * columns * padded(n) / (32 * warps) <= 32


OPTIONS = {
    "dynamic": {},
    "doubly stochastic": {"constrain": "doubly_stochastic"},
    "diagonal, per step": {"constrain": "diagonal", "per": "step"},
    "static": {"mix": "static"},
    "static, doubly stochastic": {"mix": "static", "constrain": "doubly_stochastic"},
    "static, diagonal": {"mix": "static", "constrain": "diagonal"},
}


def spec_of(option):
    residual = {"streams": 3, **OPTIONS[option]}
    return make(tree({"s": SEQ, "f": FFN}, {"recur": 2, "step": ["s", "f"], "residual": residual}, width=16))


@pytest.mark.parametrize("option", OPTIONS)
def test_models_by_kernels_give_the_loss_and_gradients_of_the_reference(planned, option):
    plain = ComposedModel(spec_of(option), "reference", torch_compile="off")
    shake(plain)
    model = ComposedModel(plain.spec, recompute=(), torch_compile="off")
    model.load_state_dict(plain.state_dict())
    check_same_training(model.to(planned).train(), plain, tokens_for(model.spec, 1, 5), planned)
    names = {
        data.kernel.name for body, _ in graphs(model.graph) for _, _, data in operations(body) if data.choice
    }
    own = {"triton_write", "triton_read" if "static" in option else "triton_map_and_read"}
    assert own <= names
    assert not {name for name in names if name.startswith(("read_", "write_", "map"))}


def test_what_is_recomputed_changes_no_bit(planned):
    spec = spec_of("dynamic")
    plain = ComposedModel(spec, recompute=(), torch_compile="off")
    shake(plain)
    tokens = tokens_for(spec, 1, 5).to(planned)
    wanted = gradients(plain.to(planned).train(), tokens)
    for marks in (recomputable(plain.graph), ["stages.0.0.maps"], ["stages.0.0.read"]):
        again = ComposedModel(spec, recompute=marks, torch_compile="off")
        again.load_state_dict(plain.state_dict())
        results = gradients(again.to(planned).train(), tokens)
        assert all(torch.equal(wanted[name], each) for name, each in results.items())


def test_recorded_values_are_those_of_the_reference(planned):
    plain = ComposedModel(spec_of("dynamic"), "reference", torch_compile="off")
    shake(plain)
    model = ComposedModel(plain.spec, recompute=(), torch_compile="off")
    model.load_state_dict(plain.state_dict())
    tokens, names = tokens_for(plain.spec, 1, 5), ["stages.0.0.maps", "stages.0.0.read", "stages.0.0.write"]
    with composer.record(plain, names) as wanted:
        plain(tokens)
    with composer.record(model.to(planned), names) as result:
        model(tokens.to(planned))
    for name in names:
        torch.testing.assert_close(result[name].cpu(), wanted[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("option", OPTIONS)
def test_models_by_kernels_keep_what_they_declare(planned, attention_keeps_as_declared, option):
    check_saved(ComposedModel(spec_of(option), torch_compile="off").to(planned), planned)


def test_plans_name_the_kernels_of_a_gpu_and_those_of_a_cpu():
    graph = compile_graph(spec_of("doubly stochastic"), Target("cuda", "bfloat16"))
    plans = {name: data for body, _ in graphs(graph) for name, _, data in operations(body) if data.choice}
    found = {data.kernel.name for data in plans.values()}
    assert {"triton_map_and_read", "triton_write"} <= found
    assert not any(
        getattr(op, "fused", False)
        for body, _ in graphs(compile_graph(spec_of("dynamic")))
        for _, op, _ in operations(body)
    )


TOKENS, N, WIDTH = 64, 4, 256
COSTS = [
    (StreamMaps(WIDTH, N, "none", fused=True), N * 6),
    (StreamMaps(WIDTH, N, "diagonal", fused=True), N * 3),
    (StreamMaps(WIDTH, N, "doubly_stochastic", fused=True), N * 6),
    (MapAndRead(WIDTH, N, "none", fused=True), WIDTH + N * 6),
    (MapAndRead(WIDTH, N, "diagonal", fused=True), WIDTH + N * 3),
    (MapAndRead(WIDTH, N, "doubly_stochastic", fused=True), WIDTH + N * 6),
    (ReadStreams(WIDTH, N, True, "none", fused=True), WIDTH),
    (WriteStreams(WIDTH, N, True, "none", fused=True), N * WIDTH),
    (WriteStreams(WIDTH, N, True, "diagonal", fused=True), N * WIDTH),
]


@pytest.mark.parametrize(("operation", "out"), COSTS, ids=str)
def test_costs_are_those_of_the_kernels(here, operation, out):
    """In the interpreter, where tensors that it makes can be counted."""
    if here == "cuda":
        pytest.skip("counted in the interpreter")
    shapes = {
        "streams": (1, TOKENS, N, WIDTH),
        "update": (1, TOKENS, WIDTH),
        "maps": (1, TOKENS, N, 3 if operation.constraint == "diagonal" else 2 + N),
    }
    alone = ("streams",)
    names = {
        StreamMaps: alone,
        MapAndRead: alone,
        ReadStreams: ("streams", "maps"),
        WriteStreams: (*shapes,),
    }[type(operation)]
    inputs = drawn(here, torch.float32, *(shapes[name] for name in names))
    weights = drawn(here, torch.float32, *operation.weight_shapes())
    if weights:
        weights = reference.pack(*weights)
    function = getattr(fused, operation.kernels[0].function.partition(":")[2])
    leaves = [each.requires_grad_() for each in inputs]
    flow = IOBytes(4 * sum(each.numel() for each in inputs) / TOKENS, 4 * out, 0)
    at = CostContext(TOKENS, device="cuda", tokens=TOKENS)
    workspace, saved = operation.workspace(at, flow), operation.saved(at)
    with LiveBytes() as alive:
        alive.count(*leaves, *weights)
        before = alive.peak = alive.now
        made = function(*leaves, *weights, **operation.arguments())
        gc.collect()
        assert alive.peak - before == TOKENS * workspace.forward
        assert alive.now - before == TOKENS * (flow.outputs + saved.extra)
        gradient = [torch.ones_like(each) for each in (made if isinstance(made, tuple) else [made])]
        alive.count(*gradient)
        before = alive.peak = alive.now
        torch.autograd.grad(made, leaves, gradient)
        # gradients of weights come on top, and the interpreter holds partial sums of them
        of_weights = 4 * sum(each.numel() for each in weights)
        assert alive.peak - before == pytest.approx(TOKENS * workspace.backward + of_weights, rel=0.005)
