"""What tests of the head and its loss share: random inputs, exact results."""

import torch

from blocks.primitives.reference import project
from blocks.wiring.loss.cross_entropy.by_chunks import head_loss
from blocks.wiring.loss.cross_entropy.reference import cross_entropy


def drawn(batch=3, length=5, width=6, vocab=11, dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(batch, length, width, generator=draw).to(dtype).requires_grad_()
    weight = torch.randn(vocab, width, generator=draw).to(dtype).requires_grad_()
    targets = torch.randint(vocab, (batch, length), generator=draw)
    return x, targets.masked_fill(torch.rand(batch, length, generator=draw) < 0.3, -100), weight


def plain(x, targets, weight):
    return cross_entropy(project(x, weight, weight.shape[:1]), targets)


def loss_and_gradients(x, targets, weight, way=lambda *given: head_loss(*given)[0]):
    loss = 3 * way(x, targets, weight)
    return [loss.detach(), *torch.autograd.grad(loss, [each for each in (x, weight) if each.requires_grad])]


def exact(x, targets, weight):
    return loss_and_gradients(
        x.detach().double().requires_grad_(), targets, weight.detach().double().requires_grad_(), plain
    )


def near(got, wanted, tolerance):
    for each, other in zip(got, wanted, strict=True):
        assert (each.double() - other).norm() <= tolerance * other.norm()
