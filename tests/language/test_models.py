"""What the fields of a spec come to."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from spec_texts import TINY

from composer.language.load import loads, read_text
from composer.language.schema.identity import run_hash
from composer.language.schema.spec import Parallel, Stage
from composer.language.space import Space
from composer.settings.errors import SpecError

TEXT = """
schema: 1
name: t
model: {width: 8, vocab: 256, context: 1Ki}
blocks: {mlp: {type: feed_forward, hidden: 8}}
stages: [{stack: 1, step: [mlp]}]
train: {data: {task: text, path: corpus}, tokens: 8k}
"""


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


def test_sequences_are_as_long_as_the_context() -> None:
    spec, stated = loads(TEXT), loads(TEXT, overrides=["train.data.length=1024"])
    assert spec == stated
    assert run_hash(spec) == run_hash(stated)
    assert spec.train
    assert spec.train.length == 1024
    assert spec.origin("train", "data", "length").endswith(":4 = model.context")


@pytest.mark.parametrize("override", ["train.data.length=null", "model.context=32"])
def test_null_counts_as_left_out_and_an_override_of_the_context_counts(override: str) -> None:
    spec = loads(TEXT, overrides=[override])
    assert spec.train
    assert spec.train.length == spec.model.context


def test_a_task_with_a_length_of_its_own_keeps_it() -> None:
    spec = loads(TEXT.replace("task: text, path: corpus", "task: hop"))
    assert spec.train
    assert spec.train.length == 48


@pytest.mark.parametrize("context", ["context: x", ""])
def test_a_wrong_context_is_one_fault(context: str) -> None:
    with pytest.raises(SpecError) as error:
        loads(TEXT.replace("context: 1Ki", context))
    assert [fault.path for fault in error.value.faults] == ["model.context"]


def test_each_point_of_a_space_takes_its_own() -> None:
    space = Space(
        read_text(
            TEXT.replace("1Ki", "{choice: [16, 64]}")
            + "search: {trials: 2, objectives: [{minimize: loss}], baselines: []}"
        )
    )
    lengths = [space.point(lambda parameter, n=n: parameter.choices[n]).spec.train.length for n in range(2)]
    assert lengths == [16, 64]
