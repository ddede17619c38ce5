"""Every form of a batch is read as documented or refused in a sentence; none ends in a raw error."""

import lightning
import pytest
import torch
import torch.nn.functional as F
from cases import FFN, one
from models import compiled, tokens_for
from strategies import make
from torch.utils.data import DataLoader, TensorDataset

import composer
from composer.module.batch import read_batch, read_tokens

T = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])
HOP = {"task": "hop", "length": 16, "symbols": 4, "hops": 1}


def model():
    plain = one(FFN)
    train = {"data": HOP, "tokens": 128, "batch_tokens": 32, "eval": {"tokens": 64}}
    return compiled(make({**plain, "model": {**plain["model"], "context": 16}, "train": train}))


def trainer(**options):
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        **options,
    )


def test_pairs_and_dicts_of_tokens_and_targets_are_taken_as_they_are():
    targets, group = T.roll(-1, 1), torch.tensor([0, 1])
    forms = [(T, targets), [T.int(), targets.int()], {"tokens": T, "targets": targets}]
    for form in [*forms, {"tokens": T, "targets": targets, "group": group}]:
        batch = read_batch(form)
        assert batch.tokens.equal(T)
        assert batch.targets.equal(targets)
        assert batch.tokens.dtype == batch.targets.dtype == torch.int64
        assert batch.group is (group if "group" in form else None)


def test_labels_stand_at_their_own_token_as_hugging_face_has_them():
    made = model()
    tokens = tokens_for(made.spec, 2, 8)
    labels = tokens.masked_fill(tokens == 3, -100)
    mask = torch.ones_like(tokens)
    mask[1, 5:] = 0
    hidden = labels.masked_fill(mask == 0, -100)
    for form, shown in [
        ({"input_ids": tokens, "labels": labels}, labels),
        ({"input_ids": tokens, "labels": labels, "attention_mask": mask}, hidden),
    ]:
        read = read_batch(form)
        expected = F.cross_entropy(
            made(tokens)[:, :-1].flatten(0, 1), shown[:, 1:].flatten(), ignore_index=-100
        )
        assert torch.allclose(made.loss(read.tokens, read.targets), expected)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (T, r"expected \(tokens, targets\).*got a int64 tensor \[2, 4\]"),
        ((T,), r"got a tuple of 1 \(a int64 tensor \[2, 4\]\)"),
        ((T, T, T), "got a tuple of 3"),
        ([T, "x"], r"got a list of 2 \(a int64 tensor \[2, 4\], a value of type str\)"),
        ([], "got an empty list"),
        (None, "got a value of type NoneType"),
        ({}, r"got a dict with the keys \(none\)"),
        ({"tokens": T}, "got a dict with the keys tokens$"),
        ({"input_ids": T, "targets": T}, "got a dict with the keys input_ids, targets"),
        ({"tokens": T, "targets": T, "mask": T}, "keys tokens, targets, mask"),
        ({"input_ids": T, "labels": T, "position_ids": T}, "keys input_ids, labels, position_ids"),
        ((T, T[:, 1:]), r"targets: expected an integer tensor .* \[2, 4\], got a int64 tensor \[2, 3\]"),
        ((T, T.float()), "targets: expected an integer tensor .*, got a float32 tensor"),
        ((T.float(), T), r"tokens: expected an integer tensor \[batch, sequence\], got a float32"),
        ((T[0], T[0]), r"tokens: expected an integer tensor \[batch, sequence\], got a int64 tensor \[4\]"),
        ({"input_ids": T.tolist(), "labels": T}, "input_ids: expected .*, got a list of 2"),
        ({"tokens": T, "targets": T, "group": T}, r"group: expected an integer tensor \[2\], got"),
        ({"input_ids": T, "labels": T, "attention_mask": T[:, 1:]}, r"attention_mask: expected a tensor \[2"),
        ({"input_ids": T, "labels": T, "attention_mask": T % 2}, "attention_mask: .*pad on the right"),
    ],
)
def test_other_batches_are_refused_with_what_was_expected_and_what_came(batch, message):
    with pytest.raises(ValueError, match=message):
        read_batch(batch)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda made: made(T[0]), r"tokens: expected an integer tensor \[batch, sequence\]"),
        (lambda made: made(T.float()), "got a float32 tensor"),
        (lambda made: made({"tokens": T}), "got a dict with the keys tokens"),
        (lambda made: made(T + 8), r"tokens: expected ids from 0 to 10 \(model.vocab is 11\), got 17"),
        (lambda made: made(T - 4), "tokens: expected ids from 0 .*, got -3"),
        (lambda made: made.loss(T, T[:1]), r"targets: expected an integer tensor of the shape"),
        (lambda made: made.loss(T, T + 8), "targets: expected ids from 0 to 10 .*, or -100, got 17"),
        (lambda made: made.loss(T, T - 9), "targets: .*, got -8"),
    ],
)
def test_models_refuse_tokens_and_targets_they_cannot_read(call, message):
    with pytest.raises(ValueError, match=message):
        call(model())


@pytest.mark.filterwarnings("ignore:.*(does not have many workers|Trying to infer the .batch_size)")
def test_a_trainer_takes_ordinary_data_loaders_in_every_loop():
    made, run = model(), trainer(limit_val_batches=2)
    tokens = tokens_for(made.spec, 8, 8)
    pairs = DataLoader(TensorDataset(tokens, tokens.roll(-1, 1)), batch_size=2)
    rows = [{"input_ids": row, "labels": row, "attention_mask": torch.ones(8)} for row in tokens]
    run.fit(made, pairs, DataLoader(rows, batch_size=2))
    assert run.global_step == 4
    assert run.callback_metrics["held_out_loss"] > 0
    logits = run.predict(made, DataLoader(TensorDataset(tokens), batch_size=2))
    assert torch.cat(logits).equal(torch.cat([made.eval()(each) for each in tokens.split(2)]))


def test_predict_gives_the_logits_of_the_data_modules_own_batches():
    made = model()
    data = composer.datamodule(made.spec)
    logits = trainer().predict(made, data)
    with torch.no_grad():
        expected = [made.eval()(batch["tokens"]) for batch in data.val_dataloader()]
    assert torch.cat(logits).equal(torch.cat(expected))


def test_tokens_alone_can_be_predicted():
    for form in (T, [T], (T,), {"tokens": T}, {"input_ids": T}, (T, T)):
        assert read_tokens(form).equal(T)
    with pytest.raises(ValueError, match="got a dict with the keys words"):
        read_tokens({"words": T})
