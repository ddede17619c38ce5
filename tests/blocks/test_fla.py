"""The kernels of flash-linear-attention: chosen where they fit, called as they expect, equal, and counted."""

import gc
import inspect
import sys
import warnings
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from cases import DELTA, one
from fla_interpreter import interpreted, products
from models import probe

from blocks.gated_delta import operations
from blocks.gated_delta.operations import CHUNK, FlaDelta, GatedDelta
from blocks.gated_delta.reference import mix_plain
from blocks.ir.costs import CostContext, IOBytes
from blocks.ir.kernel import Target
from blocks.ir.walk import graphs
from blocks.ir.walk import operations as nodes_of
from composer.costs.memory.peak import trained_length
from composer.graph.compile import compile_graph
from composer.graph.lowering.build import micro_batch_tokens
from composer.launches.fla_products import PRODUCTS
from composer.settings.errors import SpecError
from composer.testing.memory import LiveBytes
from composer.testing.models import make

HALF = Target("cuda", "bfloat16")
fla_kernels = pytest.importorskip("blocks.gated_delta.fla_kernels")
needs_fla = pytest.mark.skipif(
    find_spec("fla") is None or find_spec("triton") is None, reason="no fla-core (the extra `fla`)"
)
# the interpreter computes what kernels mask
quiet = pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")


@pytest.fixture
def release(monkeypatch):
    """Sets the release of fla-core that is installed, or none."""

    def put(number):
        def version(name):
            if number is None:
                raise PackageNotFoundError(name)
            return number

        monkeypatch.setattr(operations, "version", version)

    monkeypatch.setattr("blocks.kernels.gpu.find_spec", lambda name: True)
    return put


@pytest.fixture
def place(where):
    """A device on which fla's kernels run."""
    with warnings.catch_warnings():
        # that there is no GPU
        warnings.simplefilter("ignore")
        import fla.ops.gated_delta_rule  # noqa: F401
    with interpreted() if where == "cpu" else nullcontext():
        yield where


def mixing(graph):
    """The node of the gated delta rule."""
    return next(
        node
        for body, _ in graphs(graph)
        for _, operation, node in nodes_of(body)
        if isinstance(operation, GatedDelta)
    )


def given(batch, length, heads, key_dim, value_dim, dtype=torch.float32, device="cpu"):
    """Inputs, of which the gates are slices of a joint projection, and weights."""
    draw = torch.Generator().manual_seed(length)
    tokens = (batch, length, heads)
    shapes = ((*tokens, key_dim), (*tokens, key_dim), (*tokens, value_dim), (batch, length, 2 * heads))
    *mixed, gates = (torch.randn(shape, generator=draw).to(device, dtype) for shape in shapes)
    weights = [torch.randn(heads, generator=draw).to(device) for _ in range(2)]
    return [each.requires_grad_() for each in (*mixed, *gates.split(heads, -1), *weights)]


def chunk_gated_delta_rule(
    q,
    k,
    v,
    g,
    beta,
    scale=None,
    initial_state=None,
    output_final_state=False,
    use_qk_l2norm_in_kernel=False,
    use_beta_sigmoid_in_kernel=False,
    allow_neg_eigval=False,
    state_v_first=False,
    cu_seqlens=None,
    cu_seqlens_cpu=None,
    chunk_indices=None,
    cp_context=None,
    **kwargs,
):
    """What fla documents, with the nonlinearities that it was asked for, token by token."""
    assert (scale, initial_state, output_final_state, cu_seqlens, allow_neg_eigval) == (
        None,
        None,
        False,
        None,
        False,
    )
    rate, shift = kwargs.pop("A_log"), kwargs.pop("dt_bias")
    assert kwargs == {"use_gate_in_kernel": True}
    assert use_qk_l2norm_in_kernel
    assert use_beta_sigmoid_in_kernel
    return mix_plain(q, k, v, beta, g, rate, shift), None


def test_kernels_are_called_with_the_layout_and_the_options_of_the_reference(monkeypatch):
    module = ModuleType("fla.ops.gated_delta_rule")
    module.chunk_gated_delta_rule = chunk_gated_delta_rule
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    inputs = given(2, 5, 3, 4, 6)
    assert torch.equal(fla_kernels.mix(*inputs), mix_plain(*inputs))


@needs_fla
def test_the_signature_is_flas(place):
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule as theirs

    ours = inspect.signature(chunk_gated_delta_rule).parameters
    result = inspect.signature(inspect.unwrap(theirs)).parameters
    assert {*ours} == {*result}
    assert all(result[name].default == each.default for name, each in ours.items())


@pytest.mark.parametrize(
    ("target", "sizes", "number", "reason"),
    [
        (HALF, (2, 64, 64), "0.6.0", ""),
        (Target("cuda", "float16"), (2, 64, 64), "0.5.1", ""),
        (HALF, (2, 64, 64), "0.5.0", "fla-core 0.5.0 is older than 0.5.1"),
        (HALF, (2, 64, 64), None, r"fla-core is not installed: pip install 'attention-composer[fla]'"),
        (HALF, (2, 320, 64), "0.6.0", "keys are longer than 256"),
        (HALF, (2, 63, 64), "0.6.0", "the size of keys or values is odd"),
        (Target("cuda", "float32"), (2, 64, 64), "0.6.0", "it has no float32"),
        (Target("cpu", "bfloat16"), (2, 64, 64), "0.6.0", "needs a GPU"),
    ],
)
def test_they_are_chosen_where_they_fit(release, target, sizes, number, reason):
    release(number)
    heads, key_dim, value_dim = sizes
    block = {"heads": heads, "head_dim": key_dim, "value_dim": value_dim}
    chosen = mixing(compile_graph(make(one({**DELTA, **block})), target))
    assert chosen.kernel.name == ("delta_chunked" if reason else "fla_delta")
    assert isinstance(chosen.op, FlaDelta) != bool(reason)
    assert not reason or f"not fla_delta: {reason}" in chosen.choice.why


def test_who_insists_on_fused_kernels_is_told_of_the_extra(release):
    release(None)
    with pytest.raises(SpecError, match=r"pip install 'attention-composer\[fla\]'"):
        compile_graph(make(one({**DELTA, "value_dim": 4})), HALF, "fused")


@needs_fla
@quiet
@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        ((2, CHUNK + 6, 2, 16, 24), torch.float32),
        ((1, 2 * CHUNK + 21, 1, 20, 36), torch.float16),
        pytest.param((2, 3 * CHUNK + 1, 4, 128, 64), torch.bfloat16, marks=pytest.mark.gpu),
    ],
)
def test_outputs_and_gradients_equal_the_reference_at_odd_sizes(place, sizes, dtype):
    if place == "cuda" and dtype is torch.float32:
        pytest.skip("products are TF32")
    inputs = given(*sizes, dtype, place)
    exact = [each.detach().double().requires_grad_() for each in inputs]
    got, expected = fla_kernels.mix(*inputs), mix_plain(*exact)
    assert got.dtype == dtype
    tolerance = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}[dtype]
    names = ("q", "k", "v", "write", "forget", "rate", "shift")
    made, wanted = (torch.autograd.grad(probe(y), x) for y, x in ((got, inputs), (expected, exact)))
    pairs = {"y": (got, expected), **dict(zip(names, zip(made, wanted, strict=True), strict=True))}
    for name, (ours, theirs) in pairs.items():
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm(), name


@needs_fla
@quiet
def test_the_self_test_passes_and_tells_what_is_off(place, monkeypatch):
    from blocks.gated_delta import check

    sizes, target = GatedDelta(1, 16, 16), Target(place, "float16")
    assert check.check(sizes, target) == ""
    right = fla_kernels.mix
    monkeypatch.setattr(fla_kernels, "mix", lambda q, k, *others: right(k, q, *others))
    assert check.check(sizes, target).startswith("output is off")


@needs_fla
@quiet
@pytest.mark.slow
def test_costs_are_those_of_the_kernels(place):
    """In the interpreter, where the products and the tensors that it makes can be counted."""
    if place == "cuda":
        pytest.skip("counted in the interpreter")
    # sizes that fill the tiles of all products
    operation, inputs = FlaDelta(1, 128, 128), given(1, CHUNK, 1, 128, 128, torch.float16)
    at = CostContext(CHUNK, compute_bytes=2)
    flow = IOBytes(0, outputs=2 * 128, casts=0)
    fla_kernels.mix(*inputs)
    with LiveBytes() as alive, products() as made:
        alive.count(*inputs)
        before = alive.peak = alive.now
        y = fla_kernels.mix(*inputs)
        gc.collect()
        workspace, saved = operation.workspace(at, flow), operation.saved(at)
        assert alive.peak - before == CHUNK * workspace.forward
        assert alive.now - before == CHUNK * (flow.outputs + saved.extra)
        # the kernel leaves out 6 of 16 tiles above the diagonal, and inverts by 16 products of 16
        systems = CHUNK * (16 * CHUNK - 6 / 16 * CHUNK * 128)
        assert sum(made) == CHUNK * operation.flops(at) + 2 * systems
        made.clear()
        gradient = torch.ones_like(y)
        alive.count(gradient)
        before = alive.peak = alive.now
        torch.autograd.grad(y, inputs, gradient)
        assert alive.peak - before == pytest.approx(CHUNK * workspace.backward, rel=0.01)
        # one product is made again for each tile of the keys, of 32 in the interpreter
        again = 2 * CHUNK * CHUNK * 128 * 3
        assert sum(made) == CHUNK * operation.backward_flops(at) + again


@needs_fla
def test_launches_have_the_flops_of_the_operation(release):
    from composer.launches.step import step_launches

    spec = make(one({**DELTA, "head_dim": 64, "value_dim": 32, "heads": 2}, recur=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        launches = step_launches(spec)
    tokens = micro_batch_tokens(spec)
    at, operation = CostContext(trained_length(spec), compute_bytes=2), FlaDelta(2, 64, 32)
    for phase, flops in (("forward", operation.flops(at)), ("backward", operation.backward_flops(at))):
        counted = sum(each.flops for each in launches if each.phase == phase and each.kernel in PRODUCTS)
        assert counted == pytest.approx(tokens * flops)
