"""Models that are planned for a GPU wherever they run."""

import pytest

from blocks.ir.kernel import Target
from blocks.kernels.tensors import DTYPES
from composer.module import model as module


@pytest.fixture
def planned_for_a_gpu(where, monkeypatch):
    """Plan models for a GPU; on a CPU their kernels are interpreted."""
    if where == "cpu":
        from blocks.primitives import fused

        monkeypatch.setattr(fused, "fits", lambda *tensors: all(t.dtype in DTYPES for t in tensors))
        real = module.target_of
        monkeypatch.setattr(module, "target_of", lambda weight: Target("cuda", real(weight).dtype))
    return where
