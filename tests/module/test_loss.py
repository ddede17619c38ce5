"""The head and its loss by chunks: outputs and gradients of the two operations, and never all logits."""

import pytest
import torch
from cases import DREAMER, FFN, tree
from head_losses import drawn, exact, loss_and_gradients, near, plain
from models import close, compiled, tokens_for
from strategies import make
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from blocks.wiring.loss.cross_entropy import chunks
from blocks.wiring.loss.cross_entropy.by_chunks import head_loss
from blocks.wiring.loss.cross_entropy.operations import CrossEntropy, HeadLoss
from blocks.wiring.loss.cross_entropy.reference import cross_entropy
from composer.costs.counting.count import count_graph
from composer.costs.counting.plan import make_plan
from composer.graph.compile import compile_graph


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Chunks of four tokens."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunks, "FEWEST", 4)


SIZES = [(3, 5), (1, 1), (2, 4), (1, 4), (4, 4)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_loss_and_gradients_are_those_of_the_head_and_the_loss(size, dtype, tolerance):
    given = drawn(*size, dtype=dtype)
    if size == (1, 1):
        given[1].fill_(3)
    got = loss_and_gradients(*given)
    assert [each.dtype for each in got] == [dtype] * 3
    near(got, exact(*given), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float16, 0.002)])
@pytest.mark.parametrize("whole", [False, True])
def test_products_in_half_precision_sum_up_in_full(dtype, tolerance, whole):
    given = drawn(length=50, dtype=dtype if whole else torch.float32)
    with torch.autocast("cpu", dtype, enabled=not whole):
        got = loss_and_gradients(*given)
    assert [each.dtype for each in got] == [torch.float32, given[0].dtype, given[0].dtype]
    near(got, exact(*given), tolerance)


def test_small_gradients_outlive_fp16_where_the_loss_is_scaled():
    x, targets, weight = drawn(batch=64, length=512, width=8)
    with torch.autocast("cpu", torch.float16):
        loss = 2.0**16 * head_loss(x, targets, weight)[0]
    near([torch.autograd.grad(loss, x)[0] / 2**16], [exact(x, targets, weight)[1] / 3], 0.01)


def test_without_targets_that_count_the_loss_and_its_gradients_are_0():
    x, targets, weight = drawn()
    for each in loss_and_gradients(x, targets.fill_(-100), weight):
        assert not each.any()


@pytest.mark.parametrize("target", [11, -1])
def test_targets_outside_of_the_vocabulary_are_refused(target):
    x, targets, weight = drawn()
    targets[1, 2] = target
    with pytest.raises((IndexError, RuntimeError)):
        head_loss(x, targets, weight)


@pytest.mark.parametrize("frozen", [0, 2])
def test_what_wants_no_gradient_gets_none(frozen):
    given = drawn()
    wanted = loss_and_gradients(*given)
    given[frozen].requires_grad_(False)
    del wanted[1 + frozen // 2]
    near(loss_and_gradients(*given), [each.double() for each in wanted], 1e-6)


def test_strided_inputs_give_the_same():
    x, targets, weight = drawn(batch=4, length=6)
    turned, targets = x.detach().transpose(0, 1).requires_grad_(), targets.T
    near(loss_and_gradients(turned, targets, weight), exact(turned, targets, weight), 1e-6)


def test_a_kept_graph_gives_its_gradients_again_to_the_bit():
    x, targets, weight = drawn()
    loss = head_loss(x, targets, weight)[0]
    once, again = (torch.autograd.grad(loss, [x, weight], retain_graph=True) for _ in range(2))
    other = torch.autograd.grad(head_loss(x, targets, weight)[0], [x, weight])
    for three in zip(once, again, other, strict=True):
        assert torch.equal(three[0], three[1])
        assert torch.equal(three[0], three[2])


def test_a_double_backward_is_refused():
    x, targets, weight = drawn()
    with pytest.raises(RuntimeError, match="the loss by chunks has none"):
        torch.autograd.grad(head_loss(x, targets, weight)[0], x, create_graph=True)


class Largest(TorchDispatchMode):
    """Notes the elements of the largest tensor that anything returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **kwargs or {})
        sizes = [each.numel() for each in tree_leaves(results) if isinstance(each, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return results


@pytest.mark.parametrize("gradients", [True, False])
def test_no_tensor_is_larger_than_the_logits_of_a_chunk(gradients):
    x, targets, weight = drawn(batch=8, length=10, width=2, vocab=50)
    with Largest() as largest, torch.set_grad_enabled(gradients):
        loss = head_loss(x, targets, weight)[0]
    assert largest.elements == 4 * 50
    assert loss.requires_grad == gradients
    torch.testing.assert_close(loss, plain(x, targets, weight))


# the plan and whole models


def untied(tied):
    return {**DREAMER, "model": {**DREAMER["model"], "tie_embeddings": tied}}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_models_give_the_losses_and_gradients_of_the_reference(tied, autocast, monkeypatch):
    results = []
    for limit in (1, 2**40):
        monkeypatch.setattr(chunks, "CHUNK_BYTES", limit)
        model = compiled(untied(tied))
        batches = [tokens_for(model.spec, 2, 7), tokens_for(model.spec, 3, 5, seed=1)]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            results.append({"logits": model(batches[0])})
            for tokens in batches:  # micro-batches
                loss = model.loss(tokens, tokens.masked_fill(tokens == 3, -100)) / 2
                loss.backward()
        assert [operation_of(model)] == ([HeadLoss] if limit == 1 else [CrossEntropy])
        results[-1].update({name: parameter.grad for name, parameter in model.named_parameters()})
    assert torch.equal(results[0].pop("logits"), results[1].pop("logits"))
    close(*results, 0.05 if autocast else 1e-5)


def operation_of(model):
    return type(model.graph.node("loss").op)


def test_a_model_scores_and_runs_without_gradients():
    model = compiled(untied(True)).eval()
    tokens = tokens_for(model.spec)
    trained = model.loss(tokens, tokens)
    with torch.no_grad():
        assert torch.equal(model.loss(tokens, tokens), trained)
        logits = model(tokens)
        model.test_step({"tokens": tokens, "targets": tokens}, 0)
    torch.testing.assert_close(cross_entropy(logits, tokens), trained)


def test_the_head_is_absorbed_only_where_logits_are_more_than_a_chunk(monkeypatch):
    monkeypatch.undo()

    def spec(vocab, context, train=None):
        plain = tree({"f": FFN}, {"recur": 2, "step": ["f"]})
        model = {**plain["model"], "vocab": vocab, "context": context}
        data = {"task": "hop", "length": 16, "symbols": 4, "hops": 2}
        section = {"train": {"data": data, "tokens": 1000, **train}} if train else {}
        return make({**plain, "model": model, **section})

    for made, absorbed in (
        (spec(2**15, 1024), False),
        (spec(2**15 + 1, 1024), True),
        (spec(2**15, 1040), True),
        (spec(2**20, 256), False),
        (spec(2**13, 4096), False),
        (spec(2**15, 64, {"batch_tokens": 2048}), True),
        (spec(2**15, 64, {"batch_tokens": 2048, "accumulate": 2}), False),
    ):
        graph = compile_graph(made)
        assert isinstance(graph.node("loss").op, HeadLoss) == absorbed
        assert ("head" in graph) == (not absorbed)
    assert isinstance(compile_graph(made, kernels="reference").node("loss").op, CrossEntropy)


def test_absorbing_changes_no_cost_of_parameters_and_products():
    spec = make(untied(True))
    (whole, absorbed) = (count_graph(spec, compile_graph(spec, kernels=k)) for k in ("reference", "auto"))
    assert absorbed.params == whole.params
    assert absorbed.flops_per_token == whole.flops_per_token
    assert absorbed.by_block["model"] == whole.by_block["model"]
    assert "head_loss" in make_plan(spec).text
    assert "HeadLoss" in [row.operation for row in absorbed.by_operation]


@pytest.mark.parametrize(
    ("vocab", "tokens"), [(2**20, 256), (2**17, 256), (2**15, 1024), (2**15 + 1, 512), (7, 2**22)]
)
def test_chunks_are_powers_of_two_within_their_bytes(vocab, tokens, monkeypatch):
    monkeypatch.undo()
    assert chunks.chunk_tokens(vocab) == tokens
