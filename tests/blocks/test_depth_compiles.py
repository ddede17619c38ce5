"""The depth kernels compile for a Hopper, which needs no GPU, as they are meant to."""

import pytest
from offline import told_by


def test_kernels_compile_to_wide_loads_without_spills(tmp_path):
    pytest.importorskip("triton")
    found = told_by("compile_depth_kernels.py", tmp_path)
    kernels = ("append", "forward", "noted", "pushed", "pulled")
    assert found.keys() == {f"{name}{turned}" for name in kernels for turned in ("", ", turned")}
    for name, each in found.items():
        # 16 bytes at once, from the addresses in a table too
        assert each == {"bytes": 16, "spills": False}, name
