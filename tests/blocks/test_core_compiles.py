"""The kernels of `blocks.core` compile for a Hopper, which needs no GPU, as they are meant to."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_kernels_compile_to_wide_loads_and_stores_without_spills(tmp_path):
    pytest.importorskip("triton")
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = [sys.executable, str(HERE / "compile_core_kernels.py")]
    root = str(HERE.parents[1])
    done = subprocess.run(script, env={**env, "PYTHONPATH": root}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == {"add_norm", "add_norm_backward", "rotate", "norm_rotate", "norm_rotate_backward"}
    for name, each in found.items():
        # 16 bytes at once
        assert each == {"ld": 16, "st": 16, "spills": False}, name
