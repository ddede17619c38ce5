"""Every fault names file, line, column, key, what was expected and what came."""

from __future__ import annotations

import pytest
from spec_texts import TINY

from composer.language.load import load, loads
from composer.settings.errors import SpecError


def faults(text: str, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        loads(text, "x.yaml", overrides)
    return str(caught.value).splitlines()


# what is replaced in TINY, by what, where the fault stands, and what it must say
WRONG = [
    ("width: 64,", "widht: 64,", "3:9  model.widht:", ["a known key", "did you mean width?"]),
    ("width: 64, ", "", "3:1  model.width:", ["a whole number above 0", "nothing", "missing"]),
    ("width: 64", "width: 0", "3:16  model.width:", ["a whole number above 0, such as 64 or 4Ki", "got 0"]),
    ("width: 64", "width: 6.5", "3:16  model.width:", ["a whole number above 0", "got 6.5"]),
    ("width: 64", "width: true", "3:16  model.width:", ["a whole number above 0", "got true"]),
    ("width: 64", "width: 1e300", "3:16  model.width:", ["at most 1e+18"]),
    ("width: 64", "width: 1e30M", "3:16  model.width:", ["at most 1e+18", "'1e30M'"]),
    ("recur: 4", "recur: 1e7", "9:5  stages.0:", ["at most 1000000 steps", "got 10000000"]),
    (
        "heads: 4, kv_heads: 2",
        "heads: 1e18, kv_heads: 7, head_dim: 2",
        "5:58  blocks.seq.kv_heads:",
        ["divisor"],
    ),
    ("width: 64", "width: wide", "3:16  model.width:", ["a whole number above 0", "got 'wide'"]),
    ("width: 64", "width: [64]", "3:16  model.width:", ["a whole number above 0", "got [64]"]),
    ("width: 64", "width: null", "3:16  model.width:", ["a whole number above 0", "got null"]),
    (
        "context: 64",
        "context: 64, tie_embeddings: no",
        "3:60  model.tie_embeddings:",
        ["true or false", "'no'"],
    ),
    ("schema: 1", "schema: 2", "1:9  schema:", ["expected 1", "got 2"]),
    ("schema: 1\n", "", "1:1  schema:", ["expected 1", "missing"]),
    ("name: tiny", "name: a/b", "2:7  name:", ["letters, digits", "'a/b'"]),
    ("name: tiny", "naem: tiny", "2:1  naem:", ["a known key", "did you mean name?"]),
    (
        "type: depth_attention",
        "type: deph_attention",
        "6:17  blocks.depth.type:",
        ["did you mean depth_attention?"],
    ),
    ("type: depth_attention, ", "", "6:3  blocks.depth.type:", ["one of depth_attention", "missing"]),
    ("{type: depth_attention, heads: 4}", "depth", "6:10  blocks.depth:", ["a mapping with type", "'depth'"]),
    ("hidden: 64", "hiden: 64", "7:60  blocks.expert.hiden:", ["did you mean hidden?"]),
    ("kv_heads: 2", "kv_heads: 3", "5:55  blocks.seq.kv_heads:", ["a divisor of heads (4)", "got 3"]),
    ("active: 2", "active: 20", "7:57  blocks.expert.active:", ["number of experts (16)", "got 20"]),
    ("  depth: {", "  de.pth: {", "6:3  blocks.de.pth:", ["a name of letters, digits"]),
    (
        "[seq, depth, expert]",
        "[seq, expert]",
        "6:3  blocks.depth:",
        ["block 'depth' is defined but never used"],
    ),
    (
        "[seq, depth,",
        "[seq, detph,",
        "10:17  stages.0.step.1:",
        ["one of seq, depth, expert", "did you mean depth?"],
    ),
    ("[seq, depth,", "[seq, 7, depth,", "10:17  stages.0.step.1:", ["a block's name, {use", "got 7"]),
    (
        "[seq, depth,",
        "[{name: seq}, depth,",
        "10:12  stages.0.step.0:",
        ["a block's name", "got {name: seq}"],
    ),
    (
        "[seq, depth,",
        "[{parallel: [seq]}, depth,",
        "10:23  stages.0.step.0.parallel:",
        ["2 or more", "got 1"],
    ),
    (
        "[seq, depth,",
        "[{parallel: [seq, dept], combine: sum}, depth,",
        "10:29  stages.0.step.0.parallel.1:",
        ["did you mean depth?"],
    ),
    (
        "[seq, depth,",
        "[{parallel: [seq, depth], combine: avg},",
        "10:46  stages.0.step.0.combine:",
        ["sum, gate or mean", "'avg'"],
    ),
    ("[seq, depth, expert]", "[]", "10:11  stages.0.step:", ["a list that is not empty", "an empty list"]),
    ("recur: 4", "recur: 4\n    stack: 2", "9:5  stages.0:", ["either recur or stack", "got both"]),
    ("recur: 4", "inject: add", "9:5  stages.0:", ["either recur or stack", "got neither"]),
    ("recur: 4", "recur: {choice: [2, 4]}", "9:12  stages.0.recur:", ["one value, got a choice", "search:"]),
    ("recur: 4", "recur: 4\n    inject: sum", "10:13  stages.0.inject:", ["none, add", "'sum'"]),
    ("params: 400k", "params: 400 kB", "11:16  caps.params:", ["a whole number above 0", "'400 kB'"]),
    ("train_memory: 2GiB", "train_memory: big", "11:36  caps.train_memory:", ["a size in bytes", "'big'"]),
    ("task: hop", "task: hopp", "13:16  train.data.task:", ["one of hop", "did you mean hop?"]),
    ("length: 48", "length: 65", "13:29  train.data.length:", ["model.context (64)", "got 65"]),
    ("symbols: 4", "symbols: 40", "13:16  train.data.task:", ["model.vocab (32)", "set model.vocab"]),
    ("lr: 3e-3", "lr: fast", "15:7  train.lr:", ["a number above 0", "'fast'"]),
    ("lr: 3e-3", "lr: .inf", "15:7  train.lr:", ["a number above 0", "inf"]),
    ("lr: 3e-3", "batch_tokens: 40", "15:17  train.batch_tokens:", ["a sequence of 48 tokens", "got 40"]),
    ("lr: 3e-3", "accumulate: 7", "15:15  train.accumulate:", ["a divisor of the 85 sequences", "got 7"]),
    ("lr: 3e-3", "betas: [0.9]", "15:10  train.betas:", ["a list of 2", "got [0.9]"]),
    ("lr: 3e-3", "betas: [0.9, 1.5]", "15:16  train.betas.1:", ["at least 0 and below 1", "1.5"]),
    (
        "lr: 3e-3",
        "schedule: {decay: 0.5}",
        "15:13  train.schedule:",
        ["warmup + stable + decay = 1", "got 1.3"],
    ),
    ("lr: 3e-3", "schedule: {decay: 2}", "15:21  train.schedule.decay:", ["from 0", "to 1", "got 2"]),
    ("lr: 3e-3", "clip: null", "15:9  train.clip:", ["a number", "got null"]),
    ("lr: 3e-3", "devices: all", "15:12  train.devices:", ["auto or a whole number above 0", "'all'"]),
    ("lr: 3e-3", "precision: bf16", "15:14  train.precision:", ["auto, 32 or bf16-mixed", "'bf16'"]),
    ("lr: 3e-3", "eval: 3", "15:9  train.eval:", ["a mapping of every, tokens", "got 3"]),
    ("lr: 3e-3", "lr: ${r}", "15:7  train.lr:", ["a name from `let`", "'r'"]),
    ("lr: 3e-3", "lr: 1\nsearch: {}", "16:1  search:", ["a spec", "composer search"]),
    ("lr: 3e-3", "lr: 1\nlet: {w: 3}", "16:7  let.w:", ["name 'w' is defined but never used"]),
    ("lr: 3e-3", "lr: 1\nlet: [w]", "16:6  let:", ["a mapping from names to values", "got [w]"]),
    ("lr: 3e-3", "lr: 1\nlr: 2", "16:1  lr:", ["a known key"]),
    ("lr: 3e-3", "lr: 1\n  lr: 2", "16:3  train.lr:", ["each key once", "line 15"]),
    ("lr: 3e-3", "lr: [", "15:7  ", ["a closing ]", "got none"]),
    ("width: 64", "width: ${w}", "3:", ["valid YAML", 'quotes around "${..}"']),
    ("lr: 3e-3", "lr: *x", "15:7  ", ["an alias of an anchor above", "*x, which is undefined"]),
    ("lr: 3e-3", "lr: !!python/name:os.system x", "15:7  train.lr:", ["no tag", "python/name"]),
    ("lr: 3e-3", "8: 3", "15:3  train:", ["a name as key", 'write "8"']),
    ("lr: 3e-3", "lr: 1\nextends: no.yaml", "16:10  extends:", ["file not found: no.yaml"]),
    ("lr: 3e-3", "lr: 1\nextends: {a: b}", "16:10  extends:", ["the path of a file", "got {a: b}"]),
    # options of wiring
    (
        "recur: 4",
        "recur: 4\n    norm: prenorm",
        "10:11  stages.0.norm:",
        ["pre, none, post, sandwich or scores", "did you mean pre?"],
    ),
    ("recur: 4", "recur: 4\n    norm: rms", "10:11  stages.0.norm:", ["model.norm_type says what norms are"]),
    (
        "recur: 4",
        "recur: 4\n    residual: {}",
        "10:15  stages.0.residual:",
        ["add, {gate: ..}, {mix: ..}, {scale: ..} or {streams: ..}", "an empty mapping"],
    ),
    (
        "recur: 4",
        "recur: 4\n    residual: {gate: scalar, scale: 2}",
        "10:30  stages.0.residual.scale:",
        ["residual takes one of gate and scale"],
    ),
    (
        "recur: 4",
        "recur: 4\n    residual: {scale: -1}",
        "10:23  stages.0.residual.scale:",
        ["a number above 0, 1/steps or learned, got -1"],
    ),
    (
        "recur: 4",
        "recur: 4\n    residual: {scale: 1/step}",
        "10:23  stages.0.residual.scale:",
        ["did you mean 1/steps?"],
    ),
    (
        "recur: 4",
        "recur: 4\n    residual: {gate: vector}",
        "10:22  stages.0.residual.gate:",
        ["scalar, channel or token", "'vector'"],
    ),
    (
        "recur: 4",
        "recur: 4\n    residual: {streams: 2, mixing: static}",
        "10:28  stages.0.residual.mixing:",
        ["did you mean mix?"],
    ),
    (
        "recur: 4",
        "recur: 4\n    residual: {streams: 2}\n    norm: post",
        "10:25  stages.0.residual.streams:",
        ["one stream beside norm: post, which reads no more", "per: step"],
    ),
    (
        "recur: 4",
        "recur: 4\n    residual: {mix: learned_query, heads: 5}",
        "10:43  stages.0.residual.heads:",
        ["a divisor of width 64, got 5"],
    ),
    (
        "recur: 4",
        "recur: 4\n    residual: {mix: static}\n    inject: add",
        "10:15  stages.0.residual:",
        ["another residual beside inject: add, which acts around"],
    ),
    (
        "recur: 4",
        "recur: 4\n    start: noise",
        "10:12  stages.0.start:",
        ["where there is no `inject`", "never read the stage's input"],
    ),
    (
        "recur: 4",
        "recur: 4\n    start: {noise: 0}\n    inject: add",
        "10:20  stages.0.start.noise:",
        ["a number above 0, got 0"],
    ),
    (
        "recur: 4",
        "recur: 4\n    per_step: lora",
        "10:5  stages.0.per_step.lora:",
        ["a whole number above 0", "the key is missing"],
    ),
    (
        "recur: 4",
        "recur: 4\n    step_code: learned",
        "10:16  stages.0.step_code:",
        ["did you mean embedding?"],
    ),
    (
        "recur: 4",
        "stack: 4\n    step_code: embedding",
        "10:16  stages.0.step_code:",
        ["none in a stack", "'embedding'"],
    ),
    (
        "recur: 4",
        "stack: 4\n    per_step: {norm: true}",
        "10:15  stages.0.per_step:",
        ["none in a stack, whose layers share no weights"],
    ),
    (
        "recur: 4",
        "recur: 4\n    exit: {gate: learned}",
        "10:11  stages.0.exit:",
        [
            "model.loss last, which trains no gate",
            "got {gate: learned}",
            "model.loss: {exit: 0.05} trains it",
        ],
    ),
    (
        "recur: 4",
        "stack: 4\n    exit: {gate: learned}",
        "10:11  stages.0.exit:",
        ["none except in a last stage with recur: 2 or more"],
    ),
    (
        "recur: 4",
        "recur: {train: {uniform: [1, 4]}}",
        "9:5  stages.0.recur.steps:",
        ["a whole number above 0", "the key is missing"],
    ),
    (
        "recur: 4",
        "recur: {steps: 4, train: {uniform: [4, 1]}}",
        "9:30  stages.0.recur.train:",
        ["a first number that is not above the last", "got 4 to 1"],
    ),
    (
        "recur: 4",
        "recur: {steps: 4, train: {uniform: [1, 4, 8]}}",
        "9:40  stages.0.recur.train.uniform:",
        ["a list of 2", "got [1, 4, 8]"],
    ),
    (
        "recur: 4",
        "recur: {steps: 4, train: {poisson: {mean: 8, max: 9}}}",
        "9:30  stages.0.recur.train:",
        ["{uniform: ..}", "did you mean poisson_lognormal?"],
    ),
    (
        "recur: 4",
        "recur: {steps: 4, train: {poisson_lognormal: {mean: 8, max: 1000}}}",
        "9:65  stages.0.recur.train.poisson_lognormal.max:",
        ["at most 256, got 1000"],
    ),
    (
        "recur: 4",
        "recur: {steps: 4, train: {at: 2}}",
        "9:35  stages.0.recur.train.at:",
        ["above 0 and below 1, got 2"],
    ),
    (
        "recur: 4",
        "recur: {steps: 4, train: {uniform: [2, 4]}}\n    step_code: embedding",
        "9:30  stages.0.recur.train:",
        ["stages.0 with 2 (step_code: it holds something for each step"],
    ),
    (
        "[seq, depth,",
        "[{use: seq, at: 1}, depth,",
        "10:27  stages.0.step.0.at:",
        ["a slice of steps", "got 1 (write '1:2')"],
    ),
    (
        "[seq, depth,",
        "[{use: seq, at: '9:'}, depth,",
        "10:27  stages.0.step.0.at:",
        ["some of the 4 steps", "'9:'"],
    ),
    (
        "[seq, depth,",
        "[{use: seq, inject: add}, depth,",
        "10:23  stages.0.step.0.inject:",
        ["that is `inject` of a stage"],
    ),
    (
        "[seq, depth,",
        "[{use: seq, parallel: [seq, depth]}, depth,",
        "10:23  stages.0.step.0.parallel:",
        ["either `use`, `parallel`, `recur` or `stack`"],
    ),
    (
        "[seq, depth,",
        "[[seq, depth],",
        "10:12  stages.0.step.0:",
        ["got [seq, depth]", "side by side are {parallel: [..]}"],
    ),
    (
        "[seq, depth,",
        "[{recur: 2}, seq, depth,",
        "10:12  stages.0.step.0.step:",
        ["a list that is not empty", "the key is missing"],
    ),
    (
        "width: 64,",
        "width: 64, loss: {exit: 0.1},",
        "3:26  model.loss:",
        ["where the last stage has exit: none", "give the stage exit: {gate: learned}"],
    ),
    ("width: 64,", "width: 64, loss: mse,", "3:26  model.loss:", ["last, {exit: ..}", "'mse'"]),
    ("width: 64,", "width: 64, inject: add,", "3:20  model.inject:", ["that is `inject` of a stage"]),
    ("width: 64,", "width: 64, positions: alibi,", "3:31  model.positions:", ["none or learned"]),
    ("width: 64,", "width: 64, norm: {choice: [pre]},", "3:26  model.norm:", ["one value, got a choice"]),
    (
        "kv_heads: 2",
        "kv_heads: 2, sinks: 2",
        "5:65  blocks.seq.sinks:",
        ["a window beside which sinks are seen", "all earlier tokens are seen"],
    ),
    (
        "kv_heads: 2",
        "kv_heads: 2, rope: false, rope_fraction: 0.5",
        "5:86  blocks.seq.rope_fraction:",
        ["no rope_fraction, since rope is false"],
    ),
    (
        "kv_heads: 2",
        "kv_heads: 2, rope_scaling: yarn",
        "5:72  blocks.seq.rope_scaling:",
        ["a mapping of linear, ntk, yarn", "'yarn'"],
    ),
    (
        "kv_heads: 2",
        "kv_heads: 2, depth: joint, steps: all",
        "5:65  blocks.seq.depth:",
        ["since steps: all sees the token's own earlier steps too"],
    ),
    (
        "depth_attention, heads: 4",
        "depth_attention, heads: 4, rotary: false, kv_from: se",
        "6:68  blocks.depth.kv_from:",
        ["one of seq, depth, expert", "did you mean seq?"],
    ),
    (
        "depth_attention, heads: 4",
        "depth_attention, heads: 4, rotary: false, kv_from: seq",
        "6:3  blocks.depth.kv_heads:",
        ["2, as seq has, got 4"],
    ),
    (
        "depth_attention, heads: 4",
        "depth_attention, heads: 4, rotary: false, kv_from: expert",
        "6:68  blocks.depth.kv_from:",
        ["a block of type sequence_attention"],
    ),
    (
        "depth_attention, heads: 4",
        "depth_attention, heads: 5",
        "6:41  blocks.depth.heads:",
        ["a divisor of the width (64), got 5", "head_dim"],
    ),
    (
        "hidden: 64",
        "hidden: 64, capacity_factor: 2",
        "7:72  blocks.expert.capacity_factor:",
        ["did you mean capacity?"],
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "place", "told"), WRONG, ids=[f"{new}@{at}" for _, new, at, _ in WRONG]
)
def test_a_fault_names_its_place_and_what_was_expected(
    old: str, new: str, place: str, told: list[str]
) -> None:
    assert old in TINY
    found = [line for line in faults(TINY.replace(old, new, 1)) if line.startswith(f"x.yaml:{place}")]
    assert found, "\n".join(faults(TINY.replace(old, new, 1)))
    assert [words for words in told if words not in found[0]] == []


def test_no_fault_speaks_pydantic() -> None:
    for old, new, _, _ in WRONG:
        for line in faults(TINY.replace(old, new, 1)):
            assert not any(
                word in line for word in ("pydantic", "Input should", "union", "extra_", "NoneType")
            )


def test_a_misspelt_key_is_one_fault() -> None:
    assert len(faults(TINY.replace("width", "widht"))) == 1


def test_all_faults_of_a_file_come_at_once_in_order() -> None:
    text = (
        TINY.replace("width: 64", "width: 0").replace("recur: 4", "recur: x").replace("lr: 3e-3", "lr: ${r}")
    )
    assert [line.split("  ")[0] for line in faults(text)] == ["x.yaml:3:16", "x.yaml:9:12", "x.yaml:15:7"]


def test_a_fault_of_an_option_names_the_option() -> None:
    assert faults(TINY, "model.width=x") == [
        "--set model.width=x  model.width: expected a whole number above 0, such as 64 or 4Ki, got 'x'"
    ]


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("model.width", "path=value"),
        ("=3", "path=value"),
        ("stages.1.recur=3", "an item from 0 to 0, got '1'"),
        ("stages.one.recur=3", "an item from 0 to 0, got 'one'"),
        ("model.width.x=3", "a mapping or list, got 64"),
        ("model..x=3", "a name between dots"),
        ("model.width=[", "a closing ]"),
        ("model.depth=3", "a known key"),
        ("extends=x.yaml", "extends in a file only"),
    ],
)
def test_an_option_that_cannot_be_set_is_refused(option: str, told: str) -> None:
    (line,) = faults(TINY, option)
    assert line.startswith(f"--set {option}  ")
    assert told in line


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "1:1  expected a mapping with the keys of a spec, got an empty file"),
        (b"# only\n", "got an empty file"),
        (b"[1]", "1:1  expected a mapping with the keys of a spec, got [1]"),
        (b"a: b\nc: \xff\n", "2:4  expected UTF-8 text, got the byte 0xff (save the file as UTF-8)"),
        (b"a: \x07", "1:4  expected printable characters, got U+0007"),
        (b"a: 1\n---\nb: 2\n", "2:1  expected one document, got a second one"),
        (b"a: " + b"[" * 3000, "1:64  expected at most 60 levels"),
        (b"a: " + b"{b: " * 3000, "1:241  expected at most 60 levels"),
        (b"a: " + b"[" * 62, "1:64  expected at most 60 levels"),
        (b"- " * 3000, "1:123  expected at most 60 levels"),
        (b"a: '" + b"[" * 3000 + b"'\nb: [", "2:4  expected a closing ], got none"),
        (b"a: " + b"9" * 5000, "at most 60 digits"),
        (b"a: &a [*a]", "an alias of an anchor above, got *a, which is undefined"),
        (
            b"a0: &a0 [x, x]\n"
            + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 40)),
            "at most 100000 values once aliases are written out",
        ),
        (b"#" * 1_000_001, "at most 1000000 characters"),
    ],
)
def test_a_file_that_is_no_spec_is_refused(data: bytes, told: str, tmp_path) -> None:
    (tmp_path / "x.yaml").write_bytes(data)
    with pytest.raises(SpecError) as caught:
        load(tmp_path / "x.yaml")
    assert told in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path) -> None:
    with pytest.raises(SpecError, match=r"^file not found: .*no\.yaml$"):
        load(tmp_path / "no.yaml")
    with pytest.raises(SpecError, match=r"^expected a file, got a directory: "):
        load(tmp_path)


def test_multiplying_references_are_refused() -> None:
    lists = "".join(f"  a{i}: ['${{a{i - 1}}}', '${{a{i - 1}}}', '${{a{i - 1}}}']\n" for i in range(1, 25))
    assert any("100000 values" in line for line in faults(f"{TINY}let:\n  a0: [x]\n{lists}zz: '${{a24}}'\n"))
    texts = "".join(f"  a{i}: '${{a{i - 1}}}${{a{i - 1}}}'\n" for i in range(1, 25))
    assert any(
        "10000 characters" in line for line in faults(f"{TINY}let:\n  a0: xx\n{texts}zz: '${{a24}}'\n")
    )
    numbers = "".join(f"  a{i}: '${{a{i - 1} * a{i - 1}}}'\n" for i in range(1, 25))
    assert any("up to 1e18" in line for line in faults(f"{TINY}let:\n  a0: 99\n{numbers}zz: '${{a24}}'\n"))
