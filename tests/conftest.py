"""What all tests share: one torch thread, no GPU unless a test asks for it, hypothesis profiles."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# read by torch when it is imported, which torch-free tests never do
os.environ.setdefault("OMP_NUM_THREADS", "1")
# read by cuBLAS, which torch asks for it where only deterministic algorithms may run
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
if not Path("/dev/nvidiactl").exists():
    # read by triton when it is imported: without a GPU kernels are tested in its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("here", deadline=None, suppress_health_check=_QUIET, print_blob=True)
settings.register_profile("ci", settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(autouse=True)
def uncalibrated(tmp_path_factory, monkeypatch):
    """No device that somebody calibrated on this account."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "nobody"))


@pytest.fixture(autouse=True)
def device(request, monkeypatch):
    """Tests marked `gpu` are skipped without one; to all others there is none."""
    if request.node.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        if os.environ.get("TRITON_INTERPRET") == "1":
            pytest.skip("kernels are interpreted here")
        return
    # for processes that a test starts
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if "torch" in sys.modules:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
