"""A model runs the kernels that fit where it is: chosen anew when that changes, with all else as it was."""

import copy
import pickle
from dataclasses import replace

import lightning
import pytest
import torch
from cases import DEPTH, FFN, SEQ, one, tree
from models import shipped, tokens_for
from strategies import make

import composer
from blocks.depth_attention.operations import Attend, WriteKV
from blocks.ir.kernel import Target
from composer.graph.passes.mark_recompute import recomputable, recomputed
from composer.language.load import loads
from composer.module.emission import code, stage
from composer.module.model import ComposedModel
from composer.module.target import functions
from composer.settings.errors import SpecError

TREE = tree({"s": SEQ, "d": DEPTH, "f": FFN}, {"recur": 2, "step": ["s", {"stack": 2, "step": ["d"]}, "f"]})
FUSED = "blocks.depth_attention.fused:attend"


@pytest.fixture(autouse=True)
def bf16(monkeypatch):
    """The kernels fit in bf16 on a CPU, where they call the references."""

    def unfit(operation, target):
        return "" if target.dtype == "bfloat16" else "it is not bf16"

    for kind in (WriteKV, Attend):
        first, *others = kind.kernels
        monkeypatch.setattr(kind, "kernels", (replace(first, unfit=unfit, check=""), *others))


def mixed():
    return torch.autocast("cpu", torch.bfloat16)


def is_fused(model):
    """Whether plan and code, of the model's stages too, are those with the kernels."""
    planned = any(FUSED in called for _, called, _ in functions(model.graph))
    written = "depth_attention.fused" in "".join(text for _, text in module_source(model))
    assert planned == written
    return planned


def module_source(model):
    from composer.module.emission.stage import source

    return source(model)


def test_kernels_follow_autocast_and_nothing_else_changes():
    spec = make(TREE)
    again = [place for place in recomputable(composer.compile(spec).graph) if place.endswith("norm")]
    model = ComposedModel(spec, recompute=again).eval()
    tokens = tokens_for(spec)
    before, weights, settings = model(tokens), model.state_dict(keep_vars=True), dict(model.hparams)
    assert not is_fused(model)
    with mixed():
        logits = model(tokens)
        torch.testing.assert_close(
            logits, ComposedModel(spec, "reference").eval()(tokens), atol=0.05, rtol=0.05
        )
    assert is_fused(model)
    assert model.target == Target("cpu", "bfloat16", here=True)
    after = model.state_dict(keep_vars=True)
    assert [*after] == [*weights]
    assert all(after[name] is weights[name] for name in weights)
    assert dict(model.hparams) == settings
    assert [*recomputed(model.graph)] == again
    assert not any(each.training for each in model.modules())
    assert torch.equal(model(tokens), before)
    assert not is_fused(model)


def test_code_is_emitted_only_where_kernels_change(monkeypatch):
    model, plain = composer.compile(make(TREE)), composer.compile(make(one(FFN)))
    emitted = []
    emit = code.emit
    monkeypatch.setattr(code, "emit", lambda *given: emitted.append(given[3]) or emit(*given))
    for _ in range(2):
        model(tokens_for(model.spec))
    assert emitted == []
    with mixed():
        for _ in range(2):
            model(tokens_for(model.spec))
            plain(tokens_for(plain.spec))
    assert emitted == ["Model", "Loss", "Step", "Step"]


def test_reference_means_plain_pytorch():
    model = composer.compile(make(TREE), "reference")
    with mixed():
        model(tokens_for(model.spec))
    assert not is_fused(model)
    assert any(called.endswith("attend_plain") for _, called, _ in functions(model.graph))


TEXT = """\
schema: 1
name: tiny
model: {width: 16, vocab: 16, context: 48}
blocks:
  f: {type: feed_forward, hidden: 24}
  d: {type: depth_attention, heads: 2}
stages:
  - recur: 2
    step: [d, f]
"""


def test_fused_runs_where_the_kernels_fit_and_else_says_why(monkeypatch):
    for kind in (WriteKV, Attend):
        first, *others = kind.kernels
        checked = replace(first, check="tests_of:nothing")
        monkeypatch.setattr(kind, "kernels", (checked, *others))
    monkeypatch.setattr("composer.graph.passes.self_test.run_check", lambda *given: "")
    model = ComposedModel(loads(TEXT, "tiny.yaml"), "fused")
    tokens = tokens_for(model.spec)
    for _ in range(2):
        with pytest.raises(SpecError) as refused:
            model(tokens)
        message = str(refused.value).splitlines()
        assert len(message) == 2
        for line in message:
            assert line.startswith(
                "tiny.yaml:6:6  blocks.d: expected an operation for the fused kernel triton_"
            )
            assert "on cpu in float32" in line
            assert "cannot run: it is not bf16" in line
    with mixed():
        model(tokens)
    assert is_fused(model)
    plain = ComposedModel(make(one(FFN)), "fused")
    plain(tokens_for(plain.spec))


def test_a_kernel_that_fails_its_self_test_does_not_run(monkeypatch):
    for kind in (WriteKV, Attend):
        first, *others = kind.kernels
        monkeypatch.setattr(kind, "kernels", (replace(first, name="bad", check="tests_of:nothing"), *others))
    model = composer.compile(make(TREE))
    with mixed(), pytest.warns(UserWarning, match="bad is not used, its self-test fails: ModuleNotFound"):
        model(tokens_for(model.spec))
    assert not is_fused(model)


class Seen(lightning.Callback):
    def on_train_start(self, trainer, model):
        self.target, self.fused = model.target, is_fused(model)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", "bfloat16"), ("32-true", "float32")])
@pytest.mark.filterwarnings("ignore")
def test_a_fit_begins_with_the_kernels_of_its_device_and_precision(tmp_path, precision, dtype):
    train = "train: {data: {task: hop, length: 48, symbols: 4, hops: 4}, tokens: 96, batch_tokens: 96}\n"
    model, seen = composer.compile(loads(TEXT + train)), Seen()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=1,
        precision=precision,
        callbacks=[seen],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, datamodule=composer.datamodule(model.spec))
    assert trainer.global_step == 1
    assert seen.target == model.target == Target("cpu", dtype, here=True)
    assert seen.fused == is_fused(model) == (dtype == "bfloat16")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_run_and_choose_for_themselves(monkeypatch, copied):
    monkeypatch.undo()  # what is pickled is found by its name
    spec = make(TREE)
    model = ComposedModel(spec, recompute=[*recomputable(composer.compile(spec).graph)][:3]).eval()
    model.choose(Target("cuda", "bfloat16"))
    assert is_fused(model)
    other, tokens = copied(model), tokens_for(spec)
    assert is_fused(other)
    assert [*recomputed(other.graph)] == [*recomputed(model.graph)] != []
    logits = other(tokens)
    assert not is_fused(other)
    assert is_fused(model)
    assert torch.equal(logits, model(tokens))


def test_copies_of_grouped_experts_run():
    model = ComposedModel(shipped()["dreamer-tiny"]).eval()
    tokens = tokens_for(model.spec)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(tokens), model(tokens))


def test_code_follows_what_the_same_kernels_are_given(monkeypatch):
    monkeypatch.undo()
    model = ComposedModel(make(tree({"s": SEQ, "f": FFN}, {"stack": 2, "step": ["s", "f"]})))
    codes = []
    for dtype in ("float32", "bfloat16", "float32"):
        model.choose(Target("cuda", dtype))
        codes.append(dict(stage.source(model)))
    # in bf16 norms are returned as products read them
    assert codes[0] == codes[2] != codes[1]


@pytest.mark.filterwarnings("ignore")  # of dynamo, about its own ways
def test_a_compiled_model_follows_too():
    spec = make(tree({"d": DEPTH}, {"recur": 2, "step": ["d"]}))
    model = composer.compile(spec).eval()
    tokens = tokens_for(model.spec)
    expected = composer.compile(spec, "reference").eval()(tokens)
    model.compile(backend="eager")
    torch.testing.assert_close(model(tokens), expected)
    with mixed():
        model(tokens)
    assert is_fused(model)
    torch.testing.assert_close(model(tokens), expected)
    assert not is_fused(model)
