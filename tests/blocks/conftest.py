"""What tests of kernels share: where these run."""

import pytest
import torch

from blocks.core.tensors import DTYPES


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def where(request, monkeypatch):
    """A device that the kernels run on: in the interpreter, or compiled. Memory starts as NaN."""
    triton = pytest.importorskip("triton")
    if (request.param == "cpu") != triton.knobs.runtime.interpret:
        pytest.skip("kernels are compiled here" if request.param == "cpu" else "kernels are interpreted here")
    from blocks.depth_attention import fused

    if request.param == "cpu":
        monkeypatch.setattr(fused, "fits", lambda tensor: tensor.dtype in DTYPES)
    torch.use_deterministic_algorithms(True)
    yield request.param
    torch.use_deterministic_algorithms(False)
