"""Products by oneDNN give what torch's own do, also as gradients, and are left where they cannot be used."""

import pytest
import torch
import torch.nn.functional as F
from cases import FFN, LATENT, SEQ, tree
from head_losses import drawn, exact, loss_and_gradients, near
from peak import ROOT, allocated
from samples import some
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from blocks.kernels import onednn
from blocks.wiring.loss.cross_entropy import by_onednn, chunks
from composer import load
from composer.costs.base.precision import FULL
from composer.costs.memory.operation_memory import Batch
from composer.costs.memory.peak import Memory
from composer.graph.compile import compile_graph
from composer.testing.choices import deciding_as
from composer.testing.models import compiled, make, tokens_for

ONEDNN = torch.backends.mkldnn.is_available()
pytestmark = pytest.mark.skipif(not ONEDNN, reason="torch is built without oneDNN")


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Take oneDNN on every processor and at every size; count its products."""
    ran = []
    monkeypatch.setattr(onednn, "faster", lambda: torch.backends.mkldnn.enabled)
    monkeypatch.setattr(onednn, "LEAST", 1)
    plain = onednn._product
    monkeypatch.setattr(onednn, "_product", lambda *given: ran.append(1) or plain(*given))
    return ran


def leaves(*shape, outputs, dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    shapes = (shape, (outputs, shape[-1]), (outputs,))
    return [torch.randn(each, generator=draw, dtype=dtype).requires_grad_() for each in shapes]


def results(function, x, weight, bias):
    y = function(x, weight, bias)
    first = torch.autograd.grad(y.square().sum(), [x, weight, bias], create_graph=True)
    second = torch.autograd.grad(sum(each.square().sum() for each in first), [x, weight, bias])
    return [y, *first, *second]


@pytest.mark.parametrize("outputs", [1, 3, 70])
@pytest.mark.parametrize("shape", [(1, 1, 5), (2, 33, 7), (3, 5, 64)])
def test_outputs_and_both_derivatives_equal_fp64(shape, outputs, always):
    given = leaves(*shape, outputs=outputs)
    exact = results(F.linear, *(each.detach().double().requires_grad_() for each in given))
    for got, wanted in zip(results(onednn.linear, *given), exact, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=2e-5, atol=2e-5 * wanted.abs().max().item())
    assert always


@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # of torch, at its first derivative forward
def test_torch_does_what_it_cannot(always, monkeypatch):
    x, weight, bias = leaves(2, 8, 16, outputs=4)
    wide = [each.detach().double() for each in (x, weight, bias)]
    assert onednn.linear(*wide).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert onednn.linear(x, weight, bias).dtype == torch.bfloat16
    mapped = torch.func.vmap(lambda row: onednn.linear(row, weight, bias))(x)
    torch.testing.assert_close(mapped, F.linear(x, weight, bias))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach(), torch.ones_like(x))
        assert forward_ad.unpack_dual(onednn.linear(dual, weight, bias)).tangent is not None
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    onednn.linear(x, weight, bias)
    assert not always


def test_compiled_code_takes_other_sizes_and_gradients_by_transforms():
    x, weight, bias = (each.detach() for each in leaves(2, 8, 16, outputs=4))
    made = make_fx(onednn.product, tracing_mode="symbolic")(x.flatten(0, 1), weight, None)
    rows = next(node for node in made.graph.nodes if node.op == "call_function").meta["val"].shape[0]
    assert isinstance(rows, torch.SymInt)
    slope = torch.func.grad(lambda w: onednn.linear(x, w, bias).square().sum())
    torch.testing.assert_close(torch.compile(slope, backend="eager")(weight), slope(weight))


def test_small_products_are_left_to_torch(always, monkeypatch):
    x, weight, bias = leaves(2, 8, 16, outputs=4)
    monkeypatch.setattr(onednn, "LEAST", 2 * 8 * 16 * 4 + 1)
    assert torch.equal(onednn.linear(x, weight, bias), F.linear(x, weight, bias))
    assert not always


def test_flops_are_counted():
    x, weight, bias = leaves(2, 8, 16, outputs=4)
    with FlopCounterMode(display=False) as counter:
        onednn.linear(x, weight, bias).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 16 * 16 * 4


def test_the_operator_that_compiled_code_calls_is_one():
    given = leaves(6, 16, outputs=20)
    torch.library.opcheck(onednn.product, given)
    torch.library.opcheck(onednn.product, (*given[:2], None), test_utils="test_faketensor")


def test_a_model_trains_by_it(always):
    blocks = {"s": SEQ, "l": LATENT, "f": FFN}
    spec = make(tree(blocks, {"recur": 2, "step": ["s", "l", "f"], "inject": "concat"}))
    results = []
    for kernels in ("auto", "reference"):
        one = compiled(spec, kernels)
        tokens = tokens_for(spec)
        loss = one.loss(tokens, tokens)
        loss.backward()
        results.append([loss, *(each.grad for each in one.parameters())])
    # two steps of attention, feed-forward, latent attention and the input's projection; then the head
    assert len(always) == 3 * (2 * (2 + 2 + 4 + 1) + 1)
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)


def test_logits_of_chunks_and_gradients_for_them_are_made_by_it(always, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunks, "FEWEST", 4)
    given = drawn(length=5)
    torch.testing.assert_close(by_onednn.head_loss(given[0], None, given[2])[1], F.linear(given[0], given[2]))
    assert len(always) == 1

    def twice(x, *others):
        return by_onednn.steps_head_loss([x, x], *others, "uniform")[0]

    for steps, way in ((1, lambda *given: by_onednn.head_loss(*given)[0]), (2, twice)):
        always.clear()
        near(loss_and_gradients(*given, way), exact(*given), 1e-6)
        # of 15 tokens
        assert len(always) == steps * 2 * 4


@pytest.mark.parametrize(("layers", "sequences"), [(1, 64), (4, 8)], ids=["activations", "weights"])
def test_a_step_takes_the_declared_memory_and_little_more(layers, sequences, always):
    block = {"type": "feed_forward", "hidden": 1024, "activation": "gelu"}
    plain = tree({"f": block}, {"stack": layers, "step": ["f"]}, width=256)
    plain["model"]["context"] = 64
    spec = make(plain)
    declared = Memory(compile_graph(spec), Batch(sequences * 64, 64, FULL)).total
    more = allocated(spec, sequences, torch.float32) - declared
    assert len(always) == 2 * 3 * (2 * layers + 1)
    # packed tiles, 257 KiB of them with AVX-512
    assert 0 <= more < torch.get_num_threads() * 2**19


@pytest.mark.parametrize(
    "name", [*some((file.stem for file in sorted((ROOT / "specs/family").iterdir())), 12)]
)
def test_a_step_of_the_family_takes_as_much_memory_as_with_products_of_torch(name, monkeypatch):
    spec, peaks = load(ROOT / f"specs/family/{name}.yaml"), []
    for use in (False, True):
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", use)
        with deciding_as(spec, "most"):
            peaks.append(allocated(spec, 32, torch.float32))
    assert peaks[0] <= peaks[1] < 1.001 * peaks[0]
