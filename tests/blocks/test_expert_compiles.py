"""The kernels of expert attention compile for a Hopper, which needs no GPU, as they are meant to."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROWS = {"spread", "sum", "swiglu", "swiglu_backward"}


def test_kernels_compile_to_wide_loads_without_spills(tmp_path):
    pytest.importorskip("triton")
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = [sys.executable, str(HERE / "compile_expert_kernels.py"), "256"]
    root = str(HERE.parents[1])
    done = subprocess.run(script, env={**env, "PYTHONPATH": root}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == {"choose", "scan", "place", "unchoose"} | ROWS
    for name, each in found.items():
        assert not each["spills"], name
        # 16 bytes at once; what goes back to the logits reads one number of each choice
        assert each["bytes"] == (4 if name == "unchoose" else 16), name
    assert found["choose"]["barriers"] <= 2, "one warp searches alone"
