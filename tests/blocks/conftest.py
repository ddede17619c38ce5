"""What tests of kernels share: where these run."""

import pytest
import torch

from blocks.ir.kernel import Target
from blocks.kernels.tensors import DTYPES


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def where(request, monkeypatch):
    """A device that the kernels run on: in the interpreter, or compiled. Memory starts as NaN."""
    triton = pytest.importorskip("triton")
    if (request.param == "cpu") != triton.knobs.runtime.interpret:
        pytest.skip("kernels are compiled here" if request.param == "cpu" else "kernels are interpreted here")
    if request.param == "cpu" and request.node.callspec.params.get("dtype") in ("bfloat16", torch.bfloat16):
        pytest.skip("the interpreter has no bf16")
    from blocks.depth_attention import fused

    if request.param == "cpu":
        monkeypatch.setattr(fused, "fits", lambda tensor: tensor.dtype in DTYPES)
    # what torch compiles takes minutes, keeps what it likes, and in fp32 advises TF32
    monkeypatch.setattr("composer.module.model.ComposedModel._compiled", "no")
    torch.use_deterministic_algorithms(True)
    yield request.param
    torch.use_deterministic_algorithms(False)


class _Attention(torch.autograd.Function):
    """Attention that keeps what costs say, whatever a backend would keep; it gives no gradients."""

    @staticmethod
    def forward(ctx, q, k, v):
        y = torch.zeros_like(q, dtype=v.dtype)
        ctx.save_for_backward(q, k, v, y, q.new_zeros(q.shape[:3], dtype=torch.float32))
        return y


@pytest.fixture
def attention_keeps_as_declared(monkeypatch):
    """On a GPU sizes decide on torch's backend, and so on what is kept; columns are padded there."""
    monkeypatch.setattr("blocks.primitives.reference.alignment", lambda weight: 1)
    monkeypatch.setattr("blocks.sequence_attention.ordered.attend_causal", _Attention.apply)


@pytest.fixture
def here(where, request, monkeypatch):
    """Run the kernels of the test's `fused`, and those of the primitives."""
    if where == "cpu":
        from blocks.primitives import fused

        for each in (request.module.fused, fused):
            monkeypatch.setattr(each, "fits", lambda *given: all(x.dtype in DTYPES for x in given))
    return where


@pytest.fixture
def planned(here, monkeypatch):
    """Plan models for a GPU wherever they run."""
    from composer.module import model as module

    real = module.target_of
    monkeypatch.setattr(module, "target_of", lambda weight: Target("cuda", real(weight).dtype))
    return here
