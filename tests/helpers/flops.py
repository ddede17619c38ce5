"""FLOPs as torch counts them while a model runs, and as they are declared for the same convention."""

from contextlib import ExitStack
from unittest.mock import patch

import torch

from blocks.depth_attention import reference
from blocks.wiring.residual.mix import reference as mixes
from blocks.wiring.residual.mix import relu_reference as relu_mixes
from blocks.wiring.residual.mix import token_reference as token_mixes
from composer.testing.flops import counted as plainly
from composer.testing.flops import declared, grouped

__all__ = ["TWINS", "counted", "declared", "grouped"]


def _read(memory, part):
    """Return keys and values as [batch, sequence, kv_heads, slots, head_dim]."""
    return [x[part].permute(1, 2, 3, 0, 4) for x in (memory.keys, memory.values)]


class _Twin(torch.autograd.Function):
    """Depth attention with each of its elementwise products, two forward and four backward, as a matmul."""

    @staticmethod
    def forward(ctx, query, token, memory, part):
        ctx.memory, ctx.part = memory, part
        keys, values = _read(memory, part)
        grouped = query.unflatten(2, (memory.keys.shape[3], -1))
        if not part.stop:
            ctx.save_for_backward(query, token)
            return torch.zeros_like(query)
        weights = (torch.matmul(grouped, keys.mT) * query.shape[-1] ** -0.5).softmax(-1)
        ctx.save_for_backward(query, token, grouped, weights)
        return torch.matmul(weights, values).flatten(2, 3)

    @staticmethod
    def backward(ctx, gradient):
        query, token, *kept = ctx.saved_tensors
        if not kept:
            return torch.zeros_like(query), torch.zeros_like(token), None, None
        (grouped, weights), (keys, values) = kept, _read(ctx.memory, ctx.part)
        gradient = gradient.unflatten(2, (keys.shape[2], -1))
        by_weight = torch.matmul(gradient, values.mT)
        by_score = weights * (by_weight - (weights * by_weight).sum(-1, True)) * query.shape[-1] ** -0.5
        key_gradients, value_gradients = ctx.memory.gradients()
        key_gradients[ctx.part] += torch.matmul(by_score.mT, grouped).permute(3, 0, 1, 2, 4)
        value_gradients[ctx.part] += torch.matmul(weights.mT, gradient).permute(3, 0, 1, 2, 4)
        return torch.matmul(by_score, keys).flatten(2, 3), torch.zeros_like(token), None, None


def attend_twin(query, token, memory, bias=None, *, reads, window=None, stride=1):
    """Compute what `reference.attend` computes without its bias, in products that torch's counter sees."""
    return _Twin.apply(query, token, memory, reference.slots_read(reads, window, stride))


TWINS = {"attend": attend_twin}
"""What stands for functions of the reference whose products are elementwise, which torch's counter misses."""


class _MixTwin(torch.autograd.Function):
    """A residual mix as a function of all values and its weights, in matmuls that autograd derives."""

    @staticmethod
    def forward(ctx, plain, token, memory, reads, count, *given):
        weights, (start, *partial) = given[:count], given[count:]
        ctx.memory, ctx.reads, ctx.token = memory, reads, token
        with torch.enable_grad():
            ctx.values = torch.stack([start, *memory.values[:reads], *partial]).detach().requires_grad_()
            ctx.weights = [each.detach().requires_grad_() for each in weights]
            ctx.y = plain(ctx.values.flatten(1, 2), *ctx.weights).reshape(start.shape)
        return ctx.y.detach()

    @staticmethod
    def backward(ctx, gradient):
        by_values, *others = torch.autograd.grad(ctx.y, (ctx.values, *ctx.weights), gradient)
        after = 1 + ctx.reads
        ctx.memory.gradients()[: ctx.reads] += by_values[1:after]
        return None, torch.zeros_like(ctx.token), None, None, None, *others, by_values[0], *by_values[after:]


def _scores(values, query, heads):
    """Return scores [tokens, heads, values]."""
    split = values.unflatten(-1, (heads, -1)) * torch.rsqrt(values.square().mean(-1) + 1e-6)[..., None, None]
    scores = torch.bmm(split.flatten(0, 1).transpose(0, 1), query.view(heads, -1, 1))
    return scores.view(heads, *split.shape[:2]).permute(2, 0, 1)


def _by_token(values, weights):
    """Return the sum by weights [tokens, heads, values]."""
    split = values.unflatten(-1, (weights.shape[1], -1)).permute(1, 2, 0, 3).flatten(0, 1)
    return torch.bmm(weights.flatten(0, 1).unsqueeze(1), split)


def _attend_values(*given, reads, heads):
    *own, token, memory, query = given

    def plain(values, query):
        return _by_token(values, _scores(values, query, heads).softmax(-1))

    return _MixTwin.apply(plain, token, memory, reads, 1, query, *own)


def _weigh_values(*given, reads, heads):
    *own, token, memory, weights = given

    def plain(values, weights):
        shares = weights[: len(values)].flip(0).T.unsqueeze(1)
        y = torch.bmm(shares, values.unflatten(-1, (heads, -1)).permute(2, 0, 1, 3).flatten(2))
        return y.view(heads, values.shape[1], -1).transpose(0, 1)

    return _MixTwin.apply(plain, token, memory, reads, 1, weights, *own)


def _weigh_by_token(*given, reads, heads):
    *own, dynamic, token, memory, static = given

    def plain(values, dynamic, static):
        shares = (dynamic.flatten(0, 1) + static)[:, : len(values)].flip(1).transpose(1, 2)
        return _by_token(values, shares)

    return _MixTwin.apply(plain, token, memory, reads, 2, dynamic, static, *own)


def _rectify(*given, reads, heads):
    *own, token, memory, static, query = given

    def plain(values, static, query):
        scores = _scores(values, query, heads).clamp(min=0)
        shares = static[: len(values)].flip(0).T.unsqueeze(1)
        fixed = torch.bmm(shares, values.permute(2, 0, 1)).squeeze(1).T
        return _by_token(values, scores).view(*fixed.shape) + fixed

    return _MixTwin.apply(plain, token, memory, reads, 2, static, query, *own)


MIX_TWINS = {
    mixes: {"attend": _attend_values, "weigh": _weigh_values},
    token_mixes: {"weigh_by_token": _weigh_by_token},
    relu_mixes: {"rectify": _rectify},
}
"""The same for residual mixes, by the module of the reference."""


def counted(spec, batch=2, trains=True):
    """Return forward and backward FLOPs of one training step, counted by torch as it runs."""
    with ExitStack() as stack:
        for module, twins in {reference: TWINS, **MIX_TWINS}.items():
            stack.enter_context(patch.multiple(module, **twins))
        return plainly(spec, batch, trains)
