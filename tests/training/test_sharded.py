"""`train.strategy: fsdp`: weights in parts while training, whole in everything that a run leaves."""

import pickle
import shutil

import pytest
import torch
from runs import loaded, spec
from torch.distributed import distributed_c10d
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from composer import load_run
from composer.training import recorder, run
from composer.training.folder.checkpoint import read_weights
from composer.training.folder.errors import TrainingError
from composer.training.folder.metrics import read_metrics
from composer.training.processes.watch import limit
from composer.training.run import run_training
from composer.training.score import read, score
from composer.training.sharded import SHARD_ABOVE

TEN = "train.tokens=2560"
STAGES = (
    "stages=[{recur: 2, step: [seq, {recur: 2, step: [depth]}, expert]}, "
    "{stack: 2, step: [{parallel: [seq, depth], combine: gate}, {stack: 2, step: [expert]}], inject: concat}]"
)
# the gradient's norm is above this from the first step on; sizes that do not halve
HARD = (STAGES, "train.clip=0.01", "train.accumulate=2", "model.vocab=17", "blocks.expert.experts=3")
AGAIN = ("caps={train_memory: {soft: 1}}", "train.precision=bf16-mixed", "model.tie_embeddings=false")
FEW = (
    "stages=[{recur: 3, step: [seq, depth, expert], inject: concat, backprop: {last: 1}, halt: {act: 0.1}}]",
    "train.accumulate=2",
    "train.precision=bf16-mixed",
)


def kept(result):
    """Weights, and states of the optimizer, as a run leaves them."""
    checkpoint = loaded(result.folder / "last.ckpt")
    weights = read_weights(result.folder / "model.safetensors")[0]
    return {name: weight.tolist() for name, weight in weights.items()}, checkpoint["optimizer_states"]


@pytest.fixture
def shards(monkeypatch):
    """What is sharded in this process when a fit starts: names, and the share of the weights held here."""
    seen = []
    real = recorder.Recorder.on_train_start

    def look(self, trainer, module):
        names = {name for name, part in module.named_modules() if isinstance(part, FSDPModule)}
        weights = list(module.parameters())
        here = sum(
            (weight.to_local() if isinstance(weight, DTensor) else weight).numel() for weight in weights
        )
        seen.append((names, here / sum(weight.numel() for weight in weights)))
        for group in distributed_c10d._world.pg_map:
            if group.size() > 1:
                assert group._get_backend(torch.device("cpu")).options._timeout == limit()
        real(self, trainer, module)

    monkeypatch.setattr(recorder.Recorder, "on_train_start", look)
    return seen


@pytest.mark.parametrize("settings", [(), HARD, AGAIN, FEW], ids=["tiny", "hard", "again", "few"])
def test_one_process_trains_as_without_shards_and_leaves_the_same(settings, tmp_path):
    plain, parts = (
        run_training(spec(TEN, f"train.strategy={each}", *settings), tmp_path / each)
        for each in ("auto", "fsdp")
    )
    assert parts.metrics == plain.metrics
    assert kept(parts) == kept(plain)


def test_what_a_loss_reports_is_its_mean_over_all_targets_however_a_step_is_split(tmp_path):
    loss = ("train.tokens=256", "model.loss={steps: linear}")
    splits = [(), ("train.accumulate=4",), ("train.accumulate=2", "train.strategy=fsdp")]
    runs = [run_training(spec(*loss, *each), tmp_path / str(n)) for n, each in enumerate(splits)]
    rows = [read_metrics(run.folder / "metrics.csv")[0] for run in runs]
    for name in ("train_loss", "train_cross_entropy"):
        assert [row[name] for row in rows] == pytest.approx([rows[0][name]] * 3, rel=1e-6)
    assert rows[0]["train_cross_entropy"] != rows[0]["train_loss"]


def test_a_recurrent_stage_is_sharded_as_one_and_layers_of_their_own_one_by_one(shards, tmp_path):
    run_training(spec("train.tokens=256", "train.strategy=fsdp", STAGES), tmp_path)
    assert shards == [({"", "stages.0", "stages.1.layers.0", "stages.1.layers.1"}, 1.0)]


def test_a_paused_run_goes_on_to_the_same_end(tmp_path):
    wanted = spec(TEN, "train.strategy=fsdp")
    whole = run_training(wanted, tmp_path / "whole")
    run_training(wanted, tmp_path / "parts", until_tokens=1024)
    parts = run_training(wanted, tmp_path / "parts")
    assert kept(parts) == kept(whole)
    assert score(read(parts.folder)).scores == parts.best


def test_large_states_are_saved_by_each_rank_and_the_run_goes_on_from_them(tmp_path, monkeypatch):
    wanted = spec(TEN, "train.strategy=fsdp", "train.ema=0.5", "train.checkpoint.every=512")
    whole = run_training(wanted, tmp_path / "whole")
    monkeypatch.setenv(SHARD_ABOVE, "1000")
    run_training(wanted, tmp_path / "parts", until_tokens=1024)
    assert {path.name for path in (tmp_path / "parts").glob("last-*")} == {"last-4.shards"}
    checkpoint = loaded(tmp_path / "parts" / "last.ckpt")
    assert checkpoint["state_dict"] == checkpoint["current_model_state"] == {}
    assert read_weights(tmp_path / "parts" / "model.safetensors")[0].keys() == {
        *load_run(tmp_path / "parts", "last").state_dict()
    }
    parts = run_training(wanted, tmp_path / "parts")
    assert kept(parts)[0] == kept(whole)[0]
    assert kept(parts)[1] == [{"shards": "last-10.shards"}]
    assert {path.name for path in (tmp_path / "parts").glob("*.shards")} == {
        "last-10.shards",
        "stable-8.shards",
    }
    # a longer run goes on from the states that were kept before the decay
    longer = spec(
        "train.tokens=5120",
        "train.strategy=fsdp",
        "train.ema=0.5",
        "train.checkpoint.every=512",
        "train.schedule={warmup: 0.025, stable: 0.775, decay: 0.2}",
    )
    result = run_training(longer, tmp_path / "parts")
    monkeypatch.delenv(SHARD_ABOVE)
    assert kept(result)[0] == kept(run_training(longer, tmp_path / "longer"))[0]


def test_other_sizes_than_bytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(SHARD_ABOVE, "8GiB")
    with pytest.raises(TrainingError, match="COMPOSER_SHARD_ABOVE: expected a number of bytes, got '8GiB'"):
        run_training(spec(TEN, "train.strategy=fsdp"), tmp_path)


def test_weights_in_parts_are_put_together_and_read_without_running_what_a_pickle_names(
    tmp_path, monkeypatch
):
    wanted = spec("train.tokens=512", "train.strategy=fsdp", "train.ema=0.5")
    whole = run_training(wanted, tmp_path / "whole").folder
    monkeypatch.setenv(SHARD_ABOVE, "1000")
    parts = run_training(wanted, tmp_path / "parts").folder
    ours, theirs = (load_run(folder, "last").state_dict() for folder in (parts, whole))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    (index,) = parts.glob("last-*.shards/.metadata")
    index.write_bytes(pickle.dumps(print))
    with pytest.raises(TrainingError, match=r"cannot be read \(builtins.print is no part of an index"):
        load_run(parts, "last")
    index.unlink()
    with pytest.raises(TrainingError, match="cannot be read"):
        load_run(parts, "last")
    shutil.rmtree(index.parent)
    with pytest.raises(TrainingError, match="the parts of this checkpoint are missing"):
        load_run(parts, "last")


@pytest.mark.slow
def test_a_run_in_parts_goes_on_with_another_number_of_processes(tmp_path, monkeypatch):
    wanted = spec(TEN, "train.strategy=fsdp", "train.ema=0.5")
    whole = run_training(wanted, tmp_path / "whole")
    monkeypatch.setenv(SHARD_ABOVE, "1000")
    for first, then in ((2, 1), (1, 2)):
        folder = tmp_path / str(first)
        monkeypatch.setattr(run, "device_count", lambda train, ranks=first: ranks)
        run_training(wanted, folder, until_tokens=1024)
        (shards,) = folder.glob("last-*.shards")
        assert len([*shards.glob("*.distcp")]) == first
        monkeypatch.setattr(run, "device_count", lambda train, ranks=then: ranks)
        assert run_training(wanted, folder).metrics == pytest.approx(whole.metrics, rel=1e-4)
        ours, theirs = (load_run(each, "last").state_dict() for each in (folder, whole.folder))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [HARD, AGAIN], ids=["hard", "again"])
def test_two_processes_train_as_with_whole_weights_and_go_on_when_paused(
    settings, shards, tmp_path, monkeypatch
):
    two = (TEN, "train.devices=2", "train.eval.every=1M", *settings)
    parts = spec("train.strategy=fsdp", *two)
    if settings is AGAIN:
        monkeypatch.setenv(SHARD_ABOVE, "1000")
    run_training(parts, tmp_path / "parts", until_tokens=1024)
    result = run_training(parts, tmp_path / "parts")
    # two of three experts, and half of most else
    assert [0.45 < share < 0.65 for _, share in shards] == [True, True]
    shards.clear()
    wanted = run_training(spec("train.strategy=ddp", *two), tmp_path / "whole")
    rows = [read_metrics(run.folder / "metrics.csv") for run in (result, wanted)]
    losses = [{row["step"]: row["train_loss"] for row in each} for each in rows]
    assert losses[0][10] == pytest.approx(losses[1][10], rel=1e-5)
    assert result.metrics == pytest.approx(wanted.metrics, rel=1e-5)
    ours, theirs = (load_run(run.folder).state_dict() for run in (result, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
