"""`--kernels` and `--device`: what is printed is what would run, and `fused` is refused where it cannot."""

from pathlib import Path

import pytest
import torch

from composer.cli.main import main
from composer.training import run

TEXT = """\
schema: 1
name: tiny
model: {width: 16, vocab: 16, context: 48}
blocks:
  d: {type: depth_attention, heads: 2}
stages:
  - recur: 2
    step: [d]
train: {data: {task: hop, length: 48, symbols: 4, hops: 4}, tokens: 96, batch_tokens: 96}
"""
KERNELS = ("triton_attend", "triton_append")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TEXT)


def printed(capsys, *arguments):
    assert main(["compile", "tiny.yaml", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("tiny")
def test_compile_plans_for_another_device(capsys):
    pytest.importorskip("triton")
    here = printed(capsys)
    assert all(f"not {name}: needs a GPU" in here for name in KERNELS)
    for kernels in ("auto", "fused"):
        there = printed(capsys, "--device", "cuda", "--kernels", kernels)
        assert not any(f"not {name}" in there for name in KERNELS)
        assert all(name in there for name in KERNELS)
    plain = printed(capsys, "--device", "cuda", "--kernels", "reference")
    assert not any(name in plain for name in KERNELS)


@pytest.mark.usefixtures("tiny")
def test_compile_prints_the_code_of_that_device(capsys):
    pytest.importorskip("triton")
    assert "depth_attention.fused" not in printed(capsys, "--code")
    assert "depth_attention.fused" in printed(capsys, "--code", "--device", "cuda")


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("command", ["compile", "train"])
def test_fused_is_refused_with_place_and_reason_before_anything_is_made(capsys, command):
    assert main([command, "tiny.yaml", "--kernels", "fused"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(KERNELS)
    for line in lines:
        assert line.startswith("tiny.yaml:5:6  blocks.d: expected an operation for the fused kernel triton_")
        assert "on cpu in float32" in line
        assert "needs a GPU" in line
    assert not Path("runs").exists()


@pytest.mark.usefixtures("tiny")
def test_train_runs_the_kernels_that_it_says(monkeypatch):
    built = []
    build = run.build
    monkeypatch.setattr(run, "build", lambda *given: built.append(build(*given)) or built[-1])
    assert main(["train", "tiny.yaml", "--out", "run", "--kernels", "reference"]) == 0
    (model,) = built
    assert model.kernels == "reference"
    assert "rms_norm_plain" in Path("run/plan.txt").read_text()
    # they are no part of what a run is
    assert main(["train", "tiny.yaml", "--out", "run"]) == 0
    assert "rms_norm_plain" not in Path("run/plan.txt").read_text()


@pytest.mark.usefixtures("tiny")
def test_a_choice_that_does_not_exist_is_refused_with_those_that_do(capsys):
    assert main(["train", "tiny.yaml", "--cuda-graph", "maybe"]) == 2
    output = " ".join(capsys.readouterr().err.replace("│", "").split())
    assert "Invalid value for '--cuda-graph': 'maybe' is not one of 'auto', 'on', 'off'." in output


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has CUDA graphs")
@pytest.mark.usefixtures("tiny")
def test_cuda_graphs_are_refused_without_a_gpu_before_anything_is_printed(capsys):
    assert main(["train", "tiny.yaml", "--cuda-graph", "on"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "cuda_graph on: expected a GPU, got the device cpu\n"
