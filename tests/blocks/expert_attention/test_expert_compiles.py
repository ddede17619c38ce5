"""The kernels of expert attention compile for a Hopper, which needs no GPU, as they are meant to."""

import pytest
from offline import told_by

ROWS = {"spread", "sum", "swiglu", "swiglu_backward"}


def test_kernels_compile_to_wide_loads_without_spills(tmp_path):
    pytest.importorskip("triton")
    report = told_by("compile_expert_kernels.py", tmp_path, "256")
    for name in ("products 1024", "products 512", "gathered *bf16", "gathered *fp32"):
        assert report.pop(name) == {"cores": True, "spills": 0}, "tensor cores, all sums in registers"
    assert report.keys() == {"choose", "scan", "place", "unchoose"} | ROWS
    for name, each in report.items():
        assert not each["spills"], name
        # 16 bytes at once; one number of each choice goes back to logits, a scan may read 8
        assert each["bytes"] >= {"unchoose": 4, "scan": 8}.get(name, 16), name
    assert report["choose"]["barriers"] <= 2, "one warp searches alone"
