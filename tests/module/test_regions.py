"""Regions that torch compiles: what they compute, how many there are, and what happens where that fails."""

import contextlib
import shutil
import warnings

import models
import pytest
import torch
from cases import DEPTH, EXPERT, FFN, SEQ, tree
from models import tokens_for
from samples import FULL, some
from strategies import make
from torch._dynamo.testing import CompileCounter
from torch._inductor import config as inductor_config

from blocks.depth_attention import compiled as depth
from blocks.expert_attention import compiled as experts
from blocks.ir.kernel import Target
from composer.module.emission import regions
from composer.module.model import ComposedModel

BLOCKS = {"s": {**SEQ, "qk_norm": True}, "d": DEPTH, "e": EXPERT, "f": FFN}


def spec(**stage):
    stage = {"recur": 3, "step": ["s", "d", "e", "f"], **stage}
    used = {name: block for name, block in BLOCKS.items() if name in stage["step"]}
    return make(tree(used, stage))


def forget():
    """Forget what blocks have compiled."""
    for each in (depth._compiled, experts._choose, experts._parts):
        each.cache_clear()


@pytest.fixture
def counted(monkeypatch):
    """Compile by dynamo alone, which counts what it compiled."""
    counter, real = CompileCounter(), torch.compile
    torch._dynamo.reset()

    def compiled(*given, **settings):
        return real(*given, **settings, backend=counter)

    monkeypatch.setattr(regions.torch, "compile", compiled)
    forget()
    yield counter
    forget()


@pytest.fixture(autouse=True)
def quiet():
    """Dynamo and inductor warn of their own ways."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def run(model, tokens, mixed=False):
    """Return the loss, and all gradients by name."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16) if mixed else contextlib.nullcontext():
        loss = model.loss(tokens, tokens)
    loss.backward()
    return {"loss": loss.detach()}, {name: each.grad for name, each in model.named_parameters()}


def close(one, other, tolerance=1e-5):
    """Assert that losses agree, and gradients, those that are only rounding errors as part of the whole."""
    for got, expected in zip(one, other, strict=True):
        models.close(got, expected, tolerance)


STAGES = {
    "recurrent": {},
    "untied": {"recur": None, "stack": 3},
    "looped": {"step": ["s", {"recur": 2, "step": ["d", "f"]}, "e"]},
    "parallel": {"step": [{"parallel": ["s", "d"], "combine": "gate"}, "e", "f"]},
    "injected": {"inject": "add"},
    "concatenated": {"inject": "concat"},
}


@pytest.mark.parametrize("case", [*some(STAGES, 2)])
def test_outputs_and_gradients_are_those_of_plain_code(counted, case):
    stage = {key: value for key, value in {"recur": 3, **STAGES[case]}.items() if value is not None}
    given = make(tree(BLOCKS, {"step": ["s", "d", "e", "f"], **stage}))
    plain, model = ComposedModel(given), ComposedModel(given, torch_compile="on")
    tokens = tokens_for(given)
    close(run(model, tokens), run(plain, tokens))
    assert counted.frame_count > 1
    assert [*model.state_dict()] == [*plain.state_dict()]


def test_the_number_of_steps_compiles_nothing_more(counted):
    results = {}
    for steps in (3, 12):
        torch._dynamo.reset()
        given, before = spec(recur=steps), counted.frame_count
        model = ComposedModel(given, torch_compile="on")
        for _ in range(2):
            run(model, tokens_for(given))
        results[steps] = counted.frame_count - before
    # regions once; depth attention, both ways, for one slot and for any number
    assert results[3] == results[12] < 15


def test_only_training_runs_compiled(counted):
    model = ComposedModel(spec(), torch_compile="on").eval()
    with torch.no_grad():
        model(tokens_for(model.spec))
    assert counted.frame_count == 0


def test_what_runs_again_for_the_backward_pass_stays_plain(counted):
    given = spec()
    places = [f"stages.0.{n}.norm" for n in range(3)]
    plain = ComposedModel(given, recompute=places)
    model = ComposedModel(given, recompute=places, torch_compile="on")
    tokens = tokens_for(given)
    close(run(model, tokens), run(plain, tokens))
    assert counted.frame_count


def test_autocast_is_followed(counted):
    plain, model = ComposedModel(spec()), ComposedModel(spec(), torch_compile="on")
    tokens = tokens_for(plain.spec)
    close(run(model, tokens, mixed=True), run(plain, tokens, mixed=True), 2e-2)


def failing(*given, **settings):
    def call(*arguments):
        raise RuntimeError("no compiler\nat all")

    return call


def test_what_cannot_be_compiled_is_an_error_where_it_was_asked_for(monkeypatch):
    monkeypatch.setattr(regions.torch, "compile", failing)
    model = ComposedModel(spec(), torch_compile="on")
    with pytest.raises(RuntimeError, match=r"^torch.compile failed: RuntimeError: no compiler$"):
        run(model, tokens_for(model.spec))


def test_elsewhere_it_warns_and_runs_plainly(monkeypatch):
    monkeypatch.setattr(regions.torch, "compile", failing)
    monkeypatch.setattr(ComposedModel, "_compiled", "tried")
    given = spec()
    model, plain = ComposedModel(given), ComposedModel(given, torch_compile="off")
    tokens = tokens_for(given)
    with pytest.warns(UserWarning, match="no compiler; what it was to compile runs as it is"):
        first = run(model, tokens)
    monkeypatch.undo()
    close(first, run(plain, tokens))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(model, tokens)


def test_more_kinds_of_input_than_are_compiled_for_run_plainly(counted):
    given = spec()
    plain, model = ComposedModel(given), ComposedModel(given, torch_compile="on")
    with torch._dynamo.config.patch(recompile_limit=2, automatic_dynamic_shapes=False):
        for length in range(1, 6):
            tokens = tokens_for(given)[:, :length]
            close(run(model, tokens), run(plain, tokens))


@pytest.mark.parametrize(
    ("asked", "kind", "steps", "expected"),
    [
        ("auto", "cuda", 2000, "tried"),
        ("auto", "cuda", 10, "no"),
        ("auto", "cpu", 2000, "no"),
        ("on", "cpu", 10, "required"),
        ("off", "cuda", 2000, "no"),
    ],
)
def test_auto_compiles_long_runs_on_a_gpu(asked, kind, steps, expected):
    data = {"task": "hop", "length": 48, "symbols": 4, "hops": 4}
    train = {"data": data, "tokens": 48 * steps, "batch_tokens": 48}
    raw = {**tree({"f": FFN}, {"recur": 2, "step": ["f"]}), "train": train}
    given = make({**raw, "model": {"width": 16, "vocab": 16, "context": 48}})
    model = ComposedModel(given, torch_compile=asked)
    model.choose(Target(kind))
    assert model._compiled == expected
    assert (model.code.regions is None) == (expected == "no")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("step", [["f"], pytest.param(["s", "d", "e", "f"], marks=pytest.mark.slow)])
def test_torch_compiles_them_for_real(step):
    torch._dynamo.reset()
    given = spec(step=step)
    plain, model = ComposedModel(given), ComposedModel(given, torch_compile="on")
    tokens = tokens_for(given)
    # to try the processor's vector instructions and to prepare headers takes longer than all our regions
    quick = {"cpp.vec_isa_ok": False, "cpp_cache_precompile_headers": False}
    with inductor_config.patch({} if FULL else quick):
        close(run(model, tokens), run(plain, tokens))
