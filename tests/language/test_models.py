"""What the fields of a spec come to."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from spec_texts import TINY

from composer.language.load import loads
from composer.language.schema.spec import Parallel, Stage


def test_human_units_and_defaults() -> None:
    spec = loads(TINY)
    assert (spec.caps.params, spec.caps.train_memory) == (400_000, 2 * 1024**3)
    train = spec.train
    assert train is not None
    assert (train.batch_tokens, train.weight_decay, train.betas, train.clip) == (4096, 0.1, (0.9, 0.95), 1.0)


def test_steps_count_the_tokens_really_read() -> None:
    train = loads(TINY, overrides=["train.batch_tokens=100", "train.tokens=1000"]).train
    assert train is not None
    assert (train.length, train.batch_sequences, train.tokens_per_step, train.steps) == (48, 2, 96, 11)
    whole = loads(TINY, overrides=["train.batch_tokens=100", "train.tokens=960"]).train
    assert whole is not None
    assert whole.steps == 10


def test_stages_nest_and_know_their_kind() -> None:
    text = TINY.replace("[seq, depth, expert]", "[seq, {stack: 3, step: [depth, {parallel: [seq, expert]}]}]")
    stage = loads(text).stages[0]
    inner = stage.step[1]
    assert isinstance(inner, Stage)
    assert (stage.trips, stage.tied, inner.trips, inner.tied) == (4, True, 3, False)
    assert inner.step == ("depth", Parallel(parallel=("seq", "expert")))
    assert list(loads(text).used()) == ["seq", "depth", "seq", "expert"]


def test_a_spec_never_changes() -> None:
    spec = loads(TINY)
    with pytest.raises(ValidationError):
        spec.model.width = 3  # type: ignore[misc]


def test_training_flops_cannot_be_capped_without_training() -> None:
    text = TINY[: TINY.index("train:")] + "train: null\n"
    with pytest.raises(ValueError, match=r"caps\.train_flops: expected no such cap without train, got 5"):
        loads(text, overrides=["caps.train_flops=5"])


def test_precision_may_be_quoted() -> None:
    quoted = loads(TINY, overrides=["train.precision='32'"]).train
    assert quoted is not None
    assert quoted.precision == 32
