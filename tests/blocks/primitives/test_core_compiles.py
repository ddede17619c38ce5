"""The kernels of `blocks.primitives` and of the loss compile for a Hopper, without a GPU, as is meant."""

import pytest
from offline import told_by


def test_kernels_compile_to_wide_loads_and_stores_without_spills(tmp_path):
    pytest.importorskip("triton")
    report = told_by("compile_core_kernels.py", tmp_path)
    norms = {"add_norm", "add_norm_backward", "rotate", "norm_rotate", "norm_rotate_backward"}
    assert report.keys() == {*norms, "cross_entropy"}
    for name, each in report.items():
        # 16 bytes at once
        assert each == {"ld": 16, "st": 16, "spills": 0}, name
