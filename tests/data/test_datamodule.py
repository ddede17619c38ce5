from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from processes import Forked

from composer.data.base.errors import DataError
from composer.language.schema.spec import Eval, Train
from composer.training.data.datamodule import datamodule


def spec(steps=10, accumulate=1, sequences=8, eval_tokens=320, seed=1):
    train = Train(
        data={"task": "hop", "length": 16, "hops": 2},
        tokens=steps * sequences * 16,
        batch_tokens=sequences * 16 + 15,
        accumulate=accumulate,
        seed=seed,
        eval=Eval(tokens=eval_tokens),
    )
    return SimpleNamespace(name="toy", train=train)


class Recorder(lightning.LightningModule):
    """Notes each batch it sees, with the optimizer step it is for."""

    def __init__(self, die_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.evaluated, self.die_at = [], [], die_at

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def training_step(self, batch, _):
        if self.die_at == len(self.seen):
            raise KeyError("killed")
        self.seen.append((self.global_step, batch["tokens"].tolist(), batch["targets"].tolist()))
        return self.weight * 1.0

    def validation_step(self, batch, _):
        self.evaluated.append((self.global_step, {name: rows.clone() for name, rows in batch.items()}))
        batch["tokens"].zero_()  # what a model does to its batch must not reach the next evaluation


def trainer(**options):
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    saving = {
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in options.get("callbacks", []))
    }
    return lightning.Trainer(**{"max_epochs": -1, **quiet, **saving, **options})


def fit(wanted, ckpt_path=None, model=None, **options):
    model = model or Recorder()
    trainer(**options).fit(model, datamodule=datamodule(wanted), ckpt_path=ckpt_path)
    return model


def expected(wanted):
    """Say what a whole run sees, straight from the stream."""
    train = wanted.train
    stream, micro = train.data.stream("train", train.seed), train.batch_sequences // train.accumulate
    for step in range(train.steps):
        batch = stream.batch(step, train.batch_sequences)
        for i in range(0, train.batch_sequences, micro):
            yield step, batch.tokens[i : i + micro].tolist(), batch.targets[i : i + micro].tolist()


@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("options", [{}, {"max_epochs": 5}, {"max_epochs": -1, "max_steps": 10}], ids=str)
def test_training_sees_the_batch_of_each_step_once_and_ends(options, accumulate):
    wanted = spec(accumulate=accumulate)
    assert fit(wanted, **options).seen == list(expected(wanted))


def test_accumulation_changes_nothing_in_the_data():
    whole, parts = fit(spec(accumulate=1)).seen, fit(spec(accumulate=4)).seen
    assert len(parts) == 4 * len(whole)
    for step, (_, tokens, _) in enumerate(whole):
        assert [row for _, rows, _ in parts[4 * step : 4 * step + 4] for row in rows] == tokens


def test_max_steps_below_those_of_the_spec_end_training_early():
    wanted = spec(accumulate=2)
    assert fit(wanted, max_steps=4).seen == list(expected(wanted))[:8]


def plain():
    model, wanted = Recorder(), spec(accumulate=2)
    lightning.Trainer(max_epochs=3).fit(model, datamodule=datamodule(wanted))
    assert model.seen == list(expected(wanted))


def test_a_plain_trainer_in_a_plain_process_works_without_a_warning(tmp_path):
    ran = Forked(plain, cwd=tmp_path)
    _, error = ran.communicate(timeout=120)
    assert ran.returncode == 0, error
    said = [line for line in error.splitlines() if "Warning" in line]
    assert [line for line in said if "tensorboard" not in line] == []


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("interval", [2, 3])
@pytest.mark.parametrize("validate", [{}, {"val_check_interval": 4}, {"limit_val_batches": 0}], ids=str)
def test_a_killed_run_resumes_with_the_very_next_batch(tmp_path, accumulate, interval, validate):
    wanted = spec(accumulate=accumulate)
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=interval, save_last=True, save_top_k=0)
    killed = Recorder(die_at=7 * accumulate + accumulate - 1)
    with pytest.raises(KeyError, match="killed"):
        fit(wanted, model=killed, callbacks=[saving], **validate)
    resumed = fit(wanted, ckpt_path=tmp_path / "last.ckpt", callbacks=[saving], **validate)
    start = 7 - 7 % interval
    whole = list(expected(wanted))
    assert killed.seen == whole[: len(killed.seen)]
    assert resumed.seen == whole[start * accumulate :]
    assert resumed.weight.item() == -10


@pytest.mark.parametrize("stop", [{"max_steps": 6}, {}], ids=["cut short", "ended"])
def test_a_run_that_ended_goes_on_when_given_more_steps(tmp_path, stop):
    short, long = spec(steps=6, accumulate=2), spec(steps=10, accumulate=2)
    first = trainer(**stop)
    model = Recorder()
    first.fit(model, datamodule=datamodule(long if stop else short))
    first.save_checkpoint(tmp_path / "end.ckpt")
    longer = fit(long, ckpt_path=tmp_path / "end.ckpt")
    assert model.seen + longer.seen == list(expected(long))
    assert longer.weight.item() == -10
    assert fit(short, ckpt_path=tmp_path / "end.ckpt").seen == []


def test_a_checkpoint_amid_an_optimizer_step_is_refused(tmp_path):
    wanted, model = spec(accumulate=4), Recorder(die_at=6)
    first = trainer()
    with pytest.raises(KeyError, match="killed"):
        first.fit(model, datamodule=datamodule(wanted))
    first.save_checkpoint(tmp_path / "amid.ckpt")
    with pytest.raises(DataError, match="after 3 of the 4 micro-batches"):
        fit(wanted, ckpt_path=tmp_path / "amid.ckpt")


@pytest.mark.parametrize("accumulate", [1, 4])
def test_every_evaluation_is_of_the_same_sequences_and_reads_whole_batches(accumulate):
    wanted = spec(accumulate=accumulate, eval_tokens=2 * 8 * 16 + 1)
    model = fit(wanted, val_check_interval=5 * accumulate, num_sanity_val_steps=0)
    assert {step for step, _ in model.evaluated} == {5, 10}
    for step in (5, 10):
        batches = [batch for at, batch in model.evaluated if at == step]
        assert [len(batch["tokens"]) for batch in batches] == [8 // accumulate] * 3 * accumulate
        for name in ("tokens", "targets", "group"):
            stream = wanted.train.data.stream("eval", 0)
            rows = [row for i in range(3) for row in getattr(stream.batch(i, 8), name).tolist()]
            assert torch.cat([batch[name] for batch in batches]).tolist() == rows


def test_evaluation_is_alike_for_all_seeds():
    first, second = (next(iter(datamodule(spec(seed=seed)).val_dataloader())) for seed in (1, 2))
    assert first["tokens"].tolist() == second["tokens"].tolist()


def test_loaders_work_without_a_trainer():
    batch = next(iter(datamodule(spec(accumulate=2)).train_dataloader()))
    assert {name: (rows.dtype, tuple(rows.shape)) for name, rows in batch.items()} == {
        "tokens": (torch.int64, (4, 16)),
        "targets": (torch.int64, (4, 16)),
        "group": (torch.int64, (4,)),
    }
    loader = datamodule(spec()).val_dataloader()
    assert len(loader) == len(list(loader)) == 3


def on_rank(rank, ranks, wanted):
    """Give the data module a trainer as that rank of several would see it."""
    data = datamodule(wanted)
    progress = SimpleNamespace(current=SimpleNamespace(ready=0))
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=ranks,
        global_step=0,
        accumulate_grad_batches=1,
        overfit_batches=0,
        limit_train_batches=1.0,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
    )
    return data


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader"])
def test_ranks_share_each_micro_batch(loader):
    wanted = spec(accumulate=2)
    shares = [getattr(on_rank(rank, 2, wanted), loader)() for rank in range(2)]
    for left, right, both in zip(*shares, getattr(datamodule(wanted), loader)(), strict=True):
        assert len(left["tokens"]) == len(right["tokens"]) == 2
        for name in both:
            assert torch.cat([left[name], right[name]]).equal(both[name])


def test_what_does_not_divide_or_agree_is_refused():
    with pytest.raises(DataError, match="8 sequences does not divide into accumulate = 3"):
        datamodule(spec(accumulate=3))
    with pytest.raises(DataError, match="4 sequences does not divide among 3 devices"):
        next(iter(on_rank(0, 3, spec(accumulate=2)).train_dataloader()))
    with pytest.raises(DataError, match=r"accumulate_grad_batches=4\), but the spec says accumulate: 2"):
        fit(spec(accumulate=2), accumulate_grad_batches=4)
    with pytest.raises(DataError, match="toy: the spec has no `train`"):
        datamodule(SimpleNamespace(name="toy", train=None))
