"""`composer doctor` tells what the machine has, and ends with 1 where a kernel is wrong."""

import pytest
import torch

from composer.bench import doctor
from composer.cli.main import main


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)


def printed(capsys):
    return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())


def test_without_a_gpu_it_says_what_is_used_instead(capsys):
    assert main(["doctor"]) == 0
    lines = printed(capsys)
    assert lines["torch"] == str(doctor.version("torch"))
    assert {"python", "triton", "lightning", "optuna", "cpu"} <= lines.keys()
    assert lines["cuda"] == "none"
    assert lines["torch.compile"] == "works on cpu"
    assert lines["triton_append"] == "not here: needs a GPU; slot_write is used"
    assert lines["triton_attend"] == "not here: needs a GPU; slot_attend is used"


@pytest.fixture
def gpu(monkeypatch):
    """A GPU as doctor sees one; self-tests run in the interpreter."""
    if not pytest.importorskip("triton").knobs.runtime.interpret:
        pytest.skip("kernels are compiled here")
    from blocks.depth_attention import check
    from blocks.ir.kernel import Target

    real = doctor.run_check

    def here(kernel, operation, target):
        assert operation is None
        if kernel.name in ("flash_window", "fla_delta"):  # not our own, of which a CPU has none
            assert target.dtype == "bfloat16"
            return ""
        return real(kernel, None, Target("cpu", "float16" if target.dtype == "bfloat16" else target.dtype))

    monkeypatch.setattr(doctor, "run_check", here)
    monkeypatch.setattr(doctor, "devices", lambda: iter(()))
    monkeypatch.setattr(doctor, "compiler", lambda: doctor.Finding("torch.compile", "works"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return check


def test_right_kernels_equal_their_references(gpu, capsys, monkeypatch):
    monkeypatch.setattr("blocks.gated_delta.operations.version", lambda name: "0.5.0")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = {tuple(line.split(maxsplit=2)) for line in lines}
    assert ("flash_window", "float32", "has none; sdpa_masked is used") in said
    assert ("flash_window", "bfloat16", "equals its reference") in said
    old = "fla-core 0.5.0 is older than 0.5.1: pip install 'attention-composer[fla]'"
    assert ("fla_delta", "not", f"here: {old}; delta_chunked is used") in said
    tested = [line for line in lines if line.startswith("triton_")]
    assert {"triton_append", "triton_attend", "triton_add_norm", "triton_rotate"} < {
        line.split()[0] for line in tested
    }
    without = [line for line in tested if "has none" in line]
    assert {tuple(line.split()[:2]) for line in without} == {
        ("triton_experts_gathered", "float32"),
        ("triton_experts_rotated_gathered", "float32"),
    }
    assert all(line.endswith("  equals its reference") for line in tested if line not in without)


def test_a_wrong_kernel_ends_with_1(gpu, capsys, monkeypatch):
    right = gpu.pull_kernel.pull
    monkeypatch.setattr(gpu.pull_kernel, "pull", lambda *given: [each + 1 for each in right(*given)])
    # those that call it, of all that the test above runs
    doctor.import_operations()
    callers = [
        result for result in doctor.checked_kernels() if result[1].check.startswith("blocks.depth_attention.")
    ]
    monkeypatch.setattr(doctor, "checked_kernels", lambda: callers)
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    wrong = [line for line in lines if "FAILS its self-test: gradient of keys (pull) is off by" in line]
    # in two precisions
    assert len(wrong) == 2 * len(callers) > 0
    assert any(line.endswith("; slot_attend is used") for line in wrong)


def test_no_compiler_is_told_and_nothing_fails(capsys, monkeypatch):
    def missing(function):
        raise RuntimeError("no C++ compiler found\nfrom user code")

    monkeypatch.setattr(torch, "compile", missing)
    assert main(["doctor"]) == 0
    assert "does not work here: no C++ compiler found; everything runs without it" in capsys.readouterr().out
