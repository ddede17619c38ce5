"""torchrun and SLURM start the ranks of a run: recognised by what they set, and trained as by our own."""

import socket

import pytest
import torch
from processes import Forked, composer
from runs import SPEC, spec

from composer.training.folder.checkpoint import read_checkpoint
from composer.training.folder.errors import TrainingError
from composer.training.processes.launched import launched
from composer.training.run import run_training

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
SLURM |= {"SLURM_NTASKS_PER_NODE": "2"}
TWO = ("train.tokens=2560", "train.accumulate=2")


def set_to(monkeypatch, variables):
    for name in [*TORCHRUN, *SLURM, "SLURM_NNODES", "GROUP_WORLD_SIZE", "SLURM_JOB_NAME"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, None),
        ({**TORCHRUN, "GROUP_WORLD_SIZE": "2"}, ("torchrun", 3, 4, 2)),
        ({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}, None),
        ({**SLURM, "SLURM_NNODES": "2"}, ("SLURM", 3, 4, 2)),
        ({**SLURM, **TORCHRUN}, ("torchrun", 3, 4, 1)),
        ({**SLURM, "SLURM_JOB_NAME": "interactive"}, None),
    ],
)
def test_launchers_are_recognised_by_their_variables(variables, message, monkeypatch):
    set_to(monkeypatch, variables)
    launch = launched()
    assert (launch and (launch.launcher, launch.rank(), launch.world_size(), launch.nodes)) == message


def test_slurm_without_srun_is_refused_with_the_reason(monkeypatch):
    set_to(monkeypatch, {"SLURM_NTASKS": "4"})
    with pytest.raises(TrainingError, match="expected SLURM_PROCID in the environment, which srun sets"):
        launched()


def test_another_number_of_devices_is_refused(monkeypatch, tmp_path):
    set_to(monkeypatch, TORCHRUN)
    with pytest.raises(TrainingError, match="expected auto, or the 4 ranks of torchrun, got 2"):
        run_training(spec("train.devices=2"), tmp_path)


def variables_of(launcher, rank, port):
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    if launcher == "torchrun":
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        return {**common, **ranks, "TORCHELASTIC_RUN_ID": "x", "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1"}
    ranks = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NTASKS": "2"}
    return {
        **common,
        **ranks,
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NODEID": "0",
        "SLURM_NNODES": "1",
        "SLURM_JOB_ID": "1",
    }


@pytest.mark.parametrize(
    ("launcher", "strategy"),
    [("torchrun", "auto"), pytest.param("SLURM", "fsdp", marks=pytest.mark.slow)],
)
def test_two_ranks_started_from_outside_train_as_two_of_our_own(launcher, strategy, tmp_path, forked_ranks):
    (tmp_path / "tiny.yaml").write_text(SPEC)
    settings = [*TWO, f"train.strategy={strategy}"]
    options = [word for setting in settings for word in ("--set", setting)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ("train", "tiny.yaml", "--out", "run", *options)
    started = [
        Forked(composer, *command, cwd=tmp_path, environment=variables_of(launcher, rank, port))
        for rank in range(2)
    ]
    try:
        outputs = ["".join(each.communicate(timeout=200)) for each in started]
    finally:
        for each in started:
            each.kill()
    assert [each.returncode for each in started] == [0, 0], outputs
    assert "held-out scores" in outputs[0]
    assert outputs[1] == ""
    ours = run_training(spec(*settings, "train.devices=2"), tmp_path / "ours")
    ends = [read_checkpoint(folder / "last.ckpt")["state_dict"] for folder in (tmp_path / "run", ours.folder)]
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)
