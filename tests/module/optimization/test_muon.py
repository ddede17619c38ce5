"""Muon orthogonalises each matrix of the stages by itself, and AdamW updates the rest as it would alone."""

import pytest
import torch
from cases import EXPERT, FFN, SEQ, tree
from models import compiled
from strategies import make
from torch import nn

from composer.costs.counting.checkpoint import checkpoint_size
from composer.costs.memory.peak import train_memory
from composer.graph.compile import compile_graph
from composer.module.optimization.optimizer import make_optimizer
from composer.settings.errors import SpecError
from composer.testing.memory import measured

BLOCKS = {"seq": SEQ, "expert": {**EXPERT, "depth_code": "bias"}, "ffn": FFN}
LR, DECAY, MOMENTUM = 1e-2, 0.3, 0.9
# which of the weights are matrices of stages, and how they are divided: rows below each other, columns beside
STAGE = {"recur": 2, "step": ["seq", "ffn", "expert"], "per_step": {"lora": 2}}


def spec(stage=STAGE, blocks=BLOCKS, width=12, vocab=16, **train):
    plain = tree(blocks, stage, tie=False, width=width)
    data = {"task": "hop", "length": 16, "symbols": 4, "hops": 1}
    train = {"data": data, "tokens": 320, "batch_tokens": 32, "lr": LR, "weight_decay": DECAY, **train}
    return make({**plain, "model": {**plain["model"], "vocab": vocab, "context": 16}, "train": train})


def matrices(name, tensor):
    """The matrices of a weight, from what its name says."""
    role = name.rpartition(".")[2]
    for each in tensor if tensor.ndim == 3 else [tensor]:
        if "_lora_" in role:
            yield from (each[: len(each) // 2], each[len(each) // 2 :])
        elif role == "gate_up":
            yield from (each[:, : each.shape[1] // 2], each[:, each.shape[1] // 2 :])
        else:
            yield each


def orthogonalised(x):
    """Newton-Schulz by the quintic of Jordan et al. (2024), in double precision."""
    if x.shape[0] > x.shape[1]:
        return orthogonalised(x.T).T
    y = x.double() / x.double().norm()
    for _ in range(5):
        square = y @ y.T
        y = 3.4445 * y + (-4.775 * square + 2.0315 * square @ square) @ y
    return y


def test_each_matrix_is_updated_by_the_equations_and_the_rest_by_adamw():
    model = compiled(spec(optimizer={"muon": MOMENTUM}))
    adamw = {name: nn.Parameter(weight.detach().clone()) for name, weight in model.named_parameters()}
    alone = torch.optim.AdamW(adamw.values(), lr=LR, betas=(0.9, 0.95))
    optimizer = make_optimizer(model.named_parameters(), model.graph, model.spec.train)
    momenta, seen = {}, set()
    for step in range(2):
        torch.manual_seed(step)
        for weight in model.parameters():  # of full rank: bf16 has no small singular values
            weight.grad = torch.randn_like(weight)
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        for group in alone.param_groups:
            group["weight_decay"] = 0.0
        for name, weight in model.named_parameters():
            adamw[name].grad = weight.grad.clone()
        alone.step()
        optimizer.step()
        for name, weight in model.named_parameters():
            role = name.rpartition(".")[2]
            inside = (
                name.startswith("stages.") and weight.ndim > 1 and "norm" not in role and "bias" not in role
            )
            if not inside:
                if weight.ndim == 1 or "norm" in role or "bias" in role:  # others decay
                    torch.testing.assert_close(weight, adamw[name], msg=name)
                continue
            seen.add(role)
            momentum = momenta.setdefault(name, torch.zeros_like(weight))
            momentum.lerp_(weight.grad, 1 - MOMENTUM)
            update = weight.grad.lerp(momentum, MOMENTUM)
            pieces = (matrices(name, each) for each in (weight.detach(), before[name], update))
            for new, old, matrix in zip(*pieces, strict=True):
                size = LR * 0.2 * max(matrix.shape) ** 0.5
                expected = (1 - LR * DECAY) * old - size * orthogonalised(matrix)
                # torch's own iterates in bf16
                torch.testing.assert_close(new.double(), expected, atol=0.05 * size, rtol=0, msg=name)
    assert {"query", "out", "keys", "gate_up", "down", "up", "query_lora_a", "query_lora_b"} <= seen


def test_what_it_keeps_is_counted_exactly():
    checked = spec(optimizer="muon", width=16)
    model = compiled(checked)
    optimizer = make_optimizer(model.named_parameters(), model.graph, checked.train)
    sum(weight.sum() for weight in model.parameters()).backward()
    optimizer.step()
    states = [each for state in optimizer.state.values() for each in state.values()]
    weights = [*model.state_dict().values()]
    size = checkpoint_size(checked).resume_tensors
    assert size == sum(each.nbytes for each in (*weights, *states))
    kept = train_memory(checked, compile_graph(checked)).terms["optimizer"]
    assert kept == sum(each.nbytes for each in states if each.ndim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_is_the_predicted_one_also_where_it_is_in_the_update(dtype):
    from composer.costs.base.precision import BF16, FULL
    from composer.costs.memory.operation_memory import Batch
    from composer.costs.memory.peak import Memory

    wide = spec({"recur": 1, "step": ["ffn"]}, {"ffn": {**FFN, "hidden": 512}}, width=512, optimizer="muon")
    size = FULL if dtype == torch.float32 else BF16
    predicted = Memory(compile_graph(wide), Batch(16, 16, size), wide.train)
    assert predicted.moment == "update of the weights"
    assert predicted.total == pytest.approx(measured(wide, 1, dtype), rel=1e-3)


def test_sharded_training_is_refused_with_the_reason():
    with pytest.raises(
        SpecError,
        match="optimizer: expected one that can update parts of a weight, since strategy is fsdp, got muon",
    ):
        spec(optimizer="muon", strategy="fsdp")
