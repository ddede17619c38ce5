"""The depth kernels compile for a Hopper, which needs no GPU, as they are meant to."""

import pytest
from offline import told_by


def test_kernels_compile_to_wide_loads_without_spills_and_no_warp_waits(tmp_path):
    pytest.importorskip("triton")
    found = told_by("compile_depth_kernels.py", tmp_path)
    kernels = ("append", "forward", "noted", "pushed", "pulled")
    plain = {f"{name} {sizes}" for name in kernels for sizes in ("(64, 4, 4)", "(64, 16, 1)", "(128, 8, 2)")}
    assert found.keys() == plain | {f"{name}, turned (64, 4, 4)" for name in kernels}
    for name, each in found.items():
        # 16 bytes at once, from the addresses in a table too; warps share slots only where they push for a
        # group of 4, for which gradients are pulled
        waits = each["waits"] > 0 if name in ("pushed (64, 4, 4)", "pushed, turned (64, 4, 4)") else False
        assert each == {"bytes": 16, "spills": 0, "waits": each["waits"] if waits else 0}, name
