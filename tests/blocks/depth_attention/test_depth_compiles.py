"""The depth kernels compile for a Hopper, which needs no GPU, as they are meant to."""

import pytest
from offline import told_by
from samples import FULL


def test_kernels_compile_to_wide_loads_without_spills_and_no_warp_waits(tmp_path):
    pytest.importorskip("triton")
    sizes = ["(64, 4, 4)", "(128, 8, 2)", *(["(64, 16, 1)"] if FULL else [])]
    report = told_by("compile_depth_kernels.py", tmp_path, *(["all"] if FULL else []))
    kernels = ("append", "forward", "noted", "pushed", "written", "pulled")
    plain = {f"{name} {each}" for name in kernels for each in sizes}
    kinds = {f"{name}, {kind} (64, 4, 4)" for name in kernels for kind in ("turned", "biased")}
    assert report.keys() == (plain | kinds) - {"append, biased (64, 4, 4)"}
    for name, each in report.items():
        # 16 bytes at once, from the addresses in a table too
        assert (each["bytes"], each["spills"]) == (16, 0), name
        # what is stored for a slot in a group of 4 passes through shared memory
        assert each["waits"] == 0 or name.startswith(("pushed", "written")), name
