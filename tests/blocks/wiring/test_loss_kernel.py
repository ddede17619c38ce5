"""The head and its loss by a Triton kernel: loss and gradients of the two operations, at odd sizes."""

import pytest
import torch
from head_losses import drawn, exact, near

from blocks.ir.kernel import Target
from blocks.wiring.loss.cross_entropy import chunks
from blocks.wiring.loss.cross_entropy.operations import HeadLoss

pytest.importorskip("triton")
check = pytest.importorskip("blocks.wiring.loss.cross_entropy.check", exc_type=ImportError)
from blocks.wiring.loss.cross_entropy import fused, loss_kernel, tiles  # noqa: E402


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Chunks of four tokens."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunks, "FEWEST", 4)


@pytest.fixture
def here(where, monkeypatch):
    monkeypatch.setattr(fused, "fits", lambda *tensors: True)
    return where


def on(where, *given):
    return [each.detach().to(where).requires_grad_(each.requires_grad) for each in given]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 2e-3)])
@pytest.mark.parametrize(
    ("size", "columns"), [((3, 5, 6, 11), 16), ((1, 1, 3, 1), 32), ((2, 3, 40, 257), 64)]
)
def test_loss_and_gradients_are_those_of_the_head_and_the_loss(
    here, monkeypatch, size, columns, dtype, tolerance
):
    monkeypatch.setattr(loss_kernel, "tile", lambda shape: tiles.Tile(columns, 4))
    x, targets, weight = drawn(*size, dtype=dtype)
    targets[-1, -1] = 0
    loss, none = fused.head_loss(*on(here, x, targets, weight))
    assert none is None
    leaves = on(here, x, weight)
    made = 3 * fused.head_loss(leaves[0], targets.to(here), leaves[1])[0]
    grads = [made.detach(), *torch.autograd.grad(made, leaves)]
    assert [each.dtype for each in grads] == [torch.float32, dtype, dtype]
    near([each.cpu() for each in grads], exact(x, targets, weight), tolerance)
    near([loss.detach().cpu()], [grads[0].cpu().double() / 3], 1e-6)


def test_unscored_tokens_add_nothing_whatever_they_hold(here):
    x, targets, weight = drawn()
    wanted = exact(x, targets, weight)
    with torch.no_grad():
        x[targets == -100] = torch.nan
    leaves = on(here, x, weight)
    loss = 3 * fused.head_loss(leaves[0], targets.to(here), leaves[1])[0]
    near([each.cpu() for each in (loss.detach(), *torch.autograd.grad(loss, leaves))], wanted, 1e-6)


def test_steps_share_one_gradient_of_the_weight(here):
    from blocks.wiring.loss.cross_entropy.steps_by_chunks import steps_head_loss

    x, targets, weight = drawn()
    given = [x.detach() * (n + 1) for n in range(3)]
    results = []
    for way in (steps_head_loss, fused.steps_head_loss):
        leaves = on(here, *(each.requires_grad_() for each in given), weight)
        loss, last = way(leaves[:-1], targets.to(here), leaves[-1], "linear")
        results.append([loss.detach(), last, *torch.autograd.grad(loss, leaves)])
    near(results[1], [each.double() for each in results[0]], 1e-6)


def test_a_target_outside_of_the_vocabulary_makes_the_loss_nan(here):
    x, targets, weight = on(here, *drawn())
    targets[0, 0] = weight.shape[0]
    assert fused.head_loss(x, targets, weight)[0].isnan()


def test_off_a_gpu_plain_pytorch_runs(monkeypatch):
    monkeypatch.setattr(loss_kernel, "cross_entropy", None)
    x, targets, weight = drawn()
    near([3 * fused.head_loss(x, targets, weight)[0].detach()], exact(x, targets, weight)[:1], 1e-6)


@pytest.mark.parametrize("operation", [None, HeadLoss(8, 37)])
@pytest.mark.parametrize("dtype", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.gpu)])
def test_the_self_test_passes_and_tells_what_is_off(where, monkeypatch, operation, dtype):
    assert check.check(operation, Target(where, dtype)) == ""
    right = loss_kernel.cross_entropy

    def off(logits, targets, losses, rows=None, share=1.0):
        right(logits, targets, losses, rows, share * 1.2)

    monkeypatch.setattr(loss_kernel, "cross_entropy", off)
    assert check.check(operation, Target(where, dtype)).startswith("gradient of the rows is off")
