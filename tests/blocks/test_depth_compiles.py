"""The depth kernels compile for a Hopper, which needs no GPU, as they are meant to."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_kernels_compile_to_wide_loads_without_spills(tmp_path):
    pytest.importorskip("triton")
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = [sys.executable, str(HERE / "compile_depth_kernels.py")]
    root = str(HERE.parents[1])
    done = subprocess.run(script, env={**env, "PYTHONPATH": root}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kernels = ("append", "forward", "noted", "pushed", "pulled")
    assert found.keys() == {f"{name}{turned}" for name in kernels for turned in ("", ", turned")}
    for name, each in found.items():
        # 16 bytes at once, from the addresses in a table too
        assert each == {"bytes": 16, "spills": False}, name
