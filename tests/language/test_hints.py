"""The words of other frameworks are answered with what a thing is called here, or that there is none."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from spec_texts import TINY

from blocks.find import block_types
from composer.data.find import data_tasks
from composer.language.load import loads
from composer.language.schema.unions import WiringUnion
from composer.language.validation.aliases import NOTES, TARGETS, VALUES
from composer.language.validation.describe_types import fields
from composer.language.validation.hints import _plain, sections
from composer.language.validation.partial import partial
from composer.measures.registry import MEASURES
from composer.settings.errors import SpecError

METRICS = {
    *MEASURES,
    *(
        name
        for task in data_tasks().values()
        for name in partial(task, {"hops": 1, "path": "no folder"}).metrics
    ),
}
NAMES = {"type": block_types(), "task": data_tasks(), "metric": METRICS}


def exists(section: str, key: str) -> bool:
    return key in (NAMES[section] if section in NAMES else fields(sections()[section]))


def test_every_target_exists_and_every_word_is_another() -> None:
    for target, words in TARGETS.items():
        section, _, key = target.partition(".")
        assert exists(section, key), target
        assert len(set(words.split())) == len(words.split())
        assert not [word for word in words.split() if exists(section, word)], target


def test_every_value_is_one_that_the_field_takes() -> None:
    for target, words in VALUES.items():
        place, _, value = target.partition("=")
        section, _, key = place.partition(".")
        allowed = set(map(str, literals(fields(sections()[section])[key])))
        assert value in allowed, target
        assert not allowed.intersection(words.split()), target


def literals(hint: object) -> list[object]:
    if isinstance(hint, WiringUnion):
        return [*hint.options]
    args = (*get_args(hint), *getattr(hint, "__metadata__", ()))
    results = [value for arg in args for value in literals(arg)]
    return results or ([hint] if isinstance(hint, str | int) else [])


def test_notes_speak_of_fields_that_exist_and_of_no_word_that_has_a_target() -> None:
    words = {_plain(word) for target in TARGETS for word in TARGETS[target].split()}
    named = {_plain(key) for section in sections().values() for key in fields(section)}
    for word, note in NOTES.items():
        assert _plain(word) not in words | named, word
        for place in re.findall(r"\b([a-z_]+(?:\.[a-z_]+)+)\b", note):
            if not place.endswith(".csv"):
                *above, section, key = place.split(".")
                assert exists(section, key), place
                assert not above or exists(above[-1], section), place


SAYS = [
    ("stages.0.step.1=attention", "did you mean seq?"),
    ("stages.0.step.1=self_attention", "did you mean seq?"),
    ("stages.0.step.1=mha", "did you mean seq?"),
    ("stages.0.step.1=moe", "did you mean expert?"),
    ("stages.0.step.1=mlp", "define it under blocks: mlp: {type: feed_forward, ..}"),
    ("stages.0.step.1=ffn", "define it under blocks: ffn: {type: feed_forward, ..}"),
    ("blocks.seq.type=attention", "did you mean sequence_attention?"),
    ("blocks.seq.type=moe", "did you mean expert_attention?"),
    ("blocks.seq.type=mlp", "did you mean feed_forward?"),
    ("blocks.seq.type=mla", "did you mean latent_attention?"),
    ("blocks.seq.type=linear_attention", "did you mean gated_delta?"),
    ("blocks.seq.type=peer", "did you mean product_key_experts?"),
    ("stages.0.repeat=3", "did you mean recur?"),
    ("stages.0.loops=3", "did you mean recur?"),
    ("stages.0.num_layers=3", "did you mean stack?"),
    ("model.n_layer=3", "that is `stack` of a stage"),
    ("layers=3", "that is `stack` of a stage"),
    ("blocks.seq.pos_embedding=rope", "did you mean rope?"),
    ("blocks.seq.n_heads=3", "did you mean heads?"),
    ("blocks.depth.num_heads=3", "did you mean heads?"),
    ("blocks.depth.n_kv_heads=3", "did you mean kv_heads?"),
    ("blocks.expert.top_k=3", "did you mean active?"),
    ("blocks.expert.num_experts=3", "did you mean experts?"),
    ("model.d_model=3", "did you mean width?"),
    ("model.hidden_size=3", "did you mean width?"),
    ("d_model=3", "that is model.width"),
    ("model.vocab_size=3", "did you mean vocab?"),
    ("model.seq_len=3", "did you mean context?"),
    ("model.block_size=3", "did you mean context?"),
    ("model.numHeads=3", "that is sequence_attention.heads"),
    ("train.learning_rate=3", "did you mean lr?"),
    ("train.batch_size=3", "batches are counted in tokens: train.batch_tokens"),
    ("train.max_steps=3", "training is counted in tokens: train.tokens"),
    ("train.optimizer=adam", "did you mean adamw?"),
    ("blocks.seq.dropout=0.1", "that is model.dropout"),
    ("blocks.seq.attn_dropout=0.1", "there is no dropout of attention weights"),
    ("train.data.task=induction", "did you mean hop?"),
    ("caps.flops=3", "did you mean flops_per_token?"),
    ("train.precision=bf16", "did you mean bf16-mixed?"),
    ("stages.0.inject=sum", "did you mean add?"),
    ("stages.0.norm=peri", "did you mean sandwich or scores?"),
    ("stages.0.stack=2", "for 2 layers looped 4 times write recur: 4, step: [{stack: 2, step: [..]}]"),
    ("model.widht=3", "did you mean width?"),
    # how values are written
    ("name=123", 'put quotes around it: "123"'),
    ("name=1e5", 'put quotes around it: "1e5"'),
    ("name=true", 'put quotes around it: "true"'),
    ("train.tokens=1_000_000", "write 1000000 or 1M"),
    ("train.tokens=1 000 000", "write 1000000 or 1M"),
    ("train.tokens=4K", "write 4k (powers of 1000) or 4Ki (of 1024)"),
    ("train.tokens=1b", "write 1G"),
    ("train.tokens=30mi", "write 30Mi"),
    ("caps.train_memory=2gb", "write 2GB or 2GiB"),
    ("train.lr=10^-3", "write 1e-3"),
    ("train.lr=1/4", "write 0.25"),
    ("train.lr=3e-3#x", "put a space before # to begin a comment"),
    ("train.lr='3e-3'", "write it without quotes: 3e-3"),
    ("train.schedule.warmup=5%", "write 0.05"),
    ("train.clip=~", "leave the key out for its default"),
    ("blocks.seq.rope=yes", "write true"),
    ("blocks.seq.rope=off", "write false"),
    ("stages.0.step=seq", "write [seq]"),
    ("stages.0.step=-seq", "put a space after each -"),
    ("model={width:64, vocab: 32, context: 64}", "put a space after the colon: width: 64"),
    ("model=width:64", "put a space after the colon: width: 64"),
    ("caps.step_time={device: cpu, hard: 2 hours}", "write 2h"),
    ("caps.step_time={device: cpu, hard: 1h30m}", "write 90min"),
    ("caps.step_time={device: cpu, hard: '0:02:30'}", "write 150s"),
]


def faults(*options: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        loads(TINY, "x.yaml", options)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(("option", "hint"), SAYS, ids=[option for option, _ in SAYS])
def test_a_hint_says_what_to_write(option: str, hint: str) -> None:
    assert f"({hint}" in faults(option)[0]


@pytest.mark.parametrize(
    ("option", "count"),
    [
        ("stages=[{repeat: 4, layers: [seq, depth, expert]}]", 2),
        ("stages=[{repeat: 4, step: [seq, depth, expert]}]", 1),
        ("model={d_model: 64, vocab_size: 32, seq_len: 64}", 3),
        ("blocks.seq={type: attention, n_heads: 4}", 1),
        ("train={dataset: {task: hop}, total_tokens: 1M}", 2),
    ],
)
def test_a_word_that_is_understood_is_no_missing_key(option: str, count: int) -> None:
    assert len(faults(option)) == count
