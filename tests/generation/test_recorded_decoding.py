"""Decoding steps that are recorded and replayed: the same protocol on a CPU, and CUDA graphs on a GPU."""

from pathlib import Path

import pytest
import torch
from models import compiled, tokens_for
from replaying import Replaying

import composer
from composer.module.capture.recorder import CannotCapture
from composer.module.generates import decoder
from composer.module.generation import recorded
from composer.module.generation.recorded import RecordedDecoder
from composer.training.capture.cuda_graph import CudaGraph

SPECS = Path(__file__).parents[2] / "specs"
FAST = ["dreamer-tiny", "family/gpt2", "family/mla", "family/recurrent-hybrid"]
ALL = sorted(
    str(path.relative_to(SPECS).with_suffix(""))
    for path in SPECS.glob("**/*.yaml")
    if "space" not in path.name and path.parent.name != "studies"
)
PLAIN = {"family/mixture-of-recursions", "family/mixture-of-recursions-token", "family/expert-choice"}


def small(name):
    return compiled(composer.load(SPECS / f"{name}.yaml"))


@pytest.mark.parametrize(
    "name", [each if each in FAST else pytest.param(each, marks=pytest.mark.slow) for each in ALL]
)
def test_replayed_steps_give_the_logits_of_plain_ones(name):
    if name in PLAIN | {"dreamer-small"}:
        pytest.skip("routes tokens, or is large")
    model = small(name).double()
    tokens = tokens_for(model.spec, 2, 12)
    plain = decoder(model, 12)
    replaying = RecordedDecoder(decoder(model, 12), Replaying(), required=True)
    for part in (tokens[:, :4], *tokens[:, 4:].split(1, 1)):
        torch.testing.assert_close(replaying(part), plain(part), rtol=1e-9, atol=1e-9)
    assert replaying.replayed == 8


def test_generate_replays_where_it_is_told_to(monkeypatch):
    model = small("dreamer-tiny")
    prompts = [[1, 2, 3], [4, 5]]
    wanted = model.generate(prompts, 8, seed=3)
    with pytest.raises(CannotCapture, match="cuda_graph on: expected a GPU, got the device cpu"):
        model.generate(prompts, 8, cuda_graph="on")
    with pytest.raises(ValueError, match="cuda_graph: expected auto, on, off, got 'always'"):
        model.generate(prompts, 8, cuda_graph="always")
    with pytest.raises(ValueError, match="cuda_graph: expected auto, on, off, got 'always'"):
        CudaGraph("always")
    made = []

    class Noted(Replaying):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(recorded, "CudaGraphs", Noted)
    for choice, replays in (("on", 8), ("auto", 0), ("off", 0)):
        made.clear()
        found = model.generate(prompts, 8, seed=3, cuda_graph=choice)
        assert all(map(torch.equal, found, wanted))
        assert sum(each.replays for each in made) == replays


@pytest.mark.parametrize(
    ("name", "settings", "cache", "told"),
    [
        ("dreamer-tiny", [], "last_step", "was given one by one"),
        ("family/mixture-of-recursions", [], "full", "which tokens a step runs"),
    ],
)
def test_what_cannot_be_replayed_goes_on_plainly_or_is_refused(name, settings, cache, told):
    model = compiled(composer.load(SPECS / f"{name}.yaml", settings))
    tokens = tokens_for(model.spec, 2, 8)
    plain, ours, strict = (decoder(model, 8, cache=cache) for _ in range(3))
    ours, strict = (RecordedDecoder(each, Replaying(), each is strict) for each in (ours, strict))
    first = tokens[:, :4]
    wanted = plain(first)
    assert torch.equal(ours(first), wanted)
    strict(first)
    with pytest.raises(CannotCapture, match=told):
        strict(tokens[:, 4:5])
    with pytest.warns(UserWarning, match=f"goes on without a CUDA graph: .*{told}"):
        assert torch.equal(ours(tokens[:, 4:5]), plain(tokens[:, 4:5]))
    assert torch.equal(ours(tokens[:, 5:6]), plain(tokens[:, 5:6]))


def test_a_step_that_computes_something_else_is_not_replayed():
    class Stale(Replaying):
        def record(self, work):
            made, _ = super().record(work)
            return [each.fill_(1.0) for each in made], lambda: None

    model = small("dreamer-tiny")
    tokens = tokens_for(model.spec, 2, 6)
    ours, plain = RecordedDecoder(decoder(model, 6), Stale(), required=False), decoder(model, 6)
    ours(tokens[:, :4])
    plain(tokens[:, :4])
    with pytest.warns(UserWarning, match="off by"):
        found = ours(tokens[:, 4:5])
    torch.testing.assert_close(found, plain(tokens[:, 4:5]))
    torch.testing.assert_close(ours(tokens[:, 5:6]), plain(tokens[:, 5:6]))


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAST)
def test_cuda_graphs_generate_what_plain_steps_do(name):
    model = small(name).cuda()
    tokens = tokens_for(model.spec, 2, 4).cuda()
    plain, ours = (model.generate(tokens, 12, temperature=0, cuda_graph=each) for each in ("off", "on"))
    assert torch.equal(plain, ours)
