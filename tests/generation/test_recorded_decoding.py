"""Decoding steps that are recorded and replayed: the same protocol on a CPU, and CUDA graphs on a GPU."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from cases import SEQ, tree
from models import compiled, tokens_for
from replaying import Replaying

import composer
from composer.module.capture.recorder import CannotCapture
from composer.module.generates import Generation, decoder
from composer.module.generation import recorded
from composer.module.generation.recorded import RecordedDecoder
from composer.module.generation.sampling import Sampler
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


@pytest.fixture
def made(monkeypatch):
    """The recorders that generations made."""
    results = []

    class Noted(Replaying):
        def __init__(self):
            super().__init__()
            results.append(self)

    monkeypatch.setattr(recorded, "CudaGraphs", Noted)
    return results


@pytest.mark.parametrize(
    "name", [each if each in FAST else pytest.param(each, marks=pytest.mark.slow) for each in ALL]
)
def test_replayed_steps_give_the_logits_of_plain_ones(name):
    if name in PLAIN | {"dreamer-small"}:
        pytest.skip("routes tokens, or is large")
    check_replayed(small(name).double())


def test_replayed_steps_keep_documents_apart():
    blocks = {"seq": SEQ, "near": {**SEQ, "window": 3}}
    spec = tree(
        blocks, {"recur": 2, "step": [*blocks]}, positions="learned", documents={"apart": 1}, context=12
    )
    check_replayed(compiled(spec).double())


def check_replayed(model):
    tokens = tokens_for(model.spec, 2, 12)
    plain = decoder(model, 12)
    replaying = RecordedDecoder(decoder(model, 12), Replaying(), required=True)
    for part in (tokens[:, :4], *tokens[:, 4:].split(1, 1)):
        torch.testing.assert_close(replaying(part), plain(part), rtol=1e-9, atol=1e-9)
    assert replaying.replayed == 8


def test_choices_that_cannot_be_are_refused():
    model = small("dreamer-tiny")
    with pytest.raises(CannotCapture, match="cuda_graph on: expected a GPU, got the device cpu"):
        model.generate([[1, 2, 3]], 8, cuda_graph="on")
    with pytest.raises(ValueError, match="cuda_graph: expected auto, on, off, got 'always'"):
        model.generate([[1, 2, 3]], 8, cuda_graph="always")
    with pytest.raises(ValueError, match="cuda_graph: expected auto, on, off, got 'always'"):
        CudaGraph("always")


def test_generate_replays_where_it_is_told_to(made):
    model = small("dreamer-tiny")
    prompts = [[1, 2, 3], [4, 5]]
    wanted = model.generate(prompts, 8, seed=3)
    for choice, replays in (("on", 8), ("auto", 0), ("off", 0)):
        made.clear()
        result = model.generate(prompts, 8, seed=3, cuda_graph=choice)
        assert all(map(torch.equal, result, wanted))
        assert sum(each.replays for each in made) == replays


@pytest.mark.parametrize(
    ("name", "settings", "cache", "message"),
    [
        ("dreamer-tiny", [], "last_step", "was given one by one"),
        ("family/mixture-of-recursions", [], "full", "which tokens a step runs"),
    ],
)
def test_what_cannot_be_replayed_goes_on_plainly_or_is_refused(name, settings, cache, message):
    model = compiled(composer.load(SPECS / f"{name}.yaml", settings))
    tokens = tokens_for(model.spec, 2, 8)
    plain, ours, strict = (decoder(model, 8, cache=cache) for _ in range(3))
    ours, strict = (RecordedDecoder(each, Replaying(), each is strict) for each in (ours, strict))
    first = tokens[:, :4]
    wanted = plain(first)
    assert torch.equal(ours(first), wanted)
    strict(first)
    with pytest.raises(CannotCapture, match=message):
        strict(tokens[:, 4:5])
    with pytest.warns(UserWarning, match=f"goes on without a CUDA graph: .*{message}"):
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
        result = ours(tokens[:, 4:5])
    torch.testing.assert_close(result, plain(tokens[:, 4:5]))
    torch.testing.assert_close(ours(tokens[:, 5:6]), plain(tokens[:, 5:6]))


def recordings(made):
    return sum(each.recorded for each in made)


def test_a_recording_serves_later_generations_of_its_model(made):
    model = small("family/recurrent-hybrid").double()
    for length, new in ((4, 8), (7, 3), (1, 12)):
        tokens = tokens_for(model.spec, 2, length)
        wanted = model.generate(tokens, new, seed=length, cuda_graph="off")
        assert torch.equal(model.generate(tokens, new, seed=length, cuda_graph="on"), wanted)
        # weights change where they are, as in training: what was prepared from them changes too
        with torch.no_grad():
            for each in model.parameters():
                each.mul_(1.5)
    assert recordings(made) == 1
    assert sum(each.replays for each in made) == 7 + 2 + 11


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
def test_what_a_recording_does_not_compute_is_recorded_anew(made):
    model = small("family/ouro")
    tokens = tokens_for(model.spec, 2, 3)
    asked = [{}, {"steps": 2}, {"exit_threshold": 0.5}, {"exit_threshold": 0.6}, {"tokens": tokens[:1]}]
    for count, options in enumerate(asked, 1):
        given = {"tokens": tokens, "max_new_tokens": 4, **options}
        wanted = model.generate(**given)
        assert torch.equal(model.generate(**given, cuda_graph="on"), wanted)
        assert torch.equal(model.generate(**given, cuda_graph="on"), wanted)
        assert recordings(made) == count, options
    # the last two are kept
    model.generate(tokens, 4, exit_threshold=0.6, cuda_graph="on")
    assert recordings(made) == len(asked)
    with torch.autocast("cpu", torch.bfloat16):
        model.generate(tokens, 4, exit_threshold=0.6, cuda_graph="on")
    # elsewhere in memory
    weights = {name: each.clone() for name, each in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    wanted = model.generate(tokens, 4, exit_threshold=0.6)
    assert torch.equal(model.generate(tokens, 4, exit_threshold=0.6, cuda_graph="on"), wanted)
    assert recordings(made) == len(asked) + 2


def test_generations_side_by_side_have_recordings_of_their_own(made):
    model = small("dreamer-tiny")
    given = tokens_for(model.spec, 2, 3), tokens_for(model.spec, 2, 5)
    both = [Generation(model, [*each], 6, Sampler(0), None) for each in given]
    for _ in zip(*(each.tokens(cuda_graph="on") for each in both), strict=True):
        pass
    for each, tokens in zip(both, given, strict=True):
        assert torch.equal(torch.stack(each.rows()), model.generate(tokens, 6, temperature=0))
    assert recordings(made) == 2
    # one that is left early gives its recording back
    left = Generation(model, [*given[0]], 6, Sampler(0), None).tokens(cuda_graph="on")
    for _ in range(3):
        next(left)
    left.close()
    model.generate(given[1], 6, cuda_graph="on")
    assert recordings(made) == 2


def test_recordings_go_with_their_model(made):
    model = small("dreamer-tiny")
    model.generate(tokens_for(model.spec, 2, 3), 4, cuda_graph="on")
    gone, recorder = weakref.ref(model), weakref.ref(made.pop())
    del model
    gc.collect()
    assert gone() is None
    gc.collect()  # what only the model's recordings held is in circles of its own
    assert recorder() is None


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAST)
def test_cuda_graphs_generate_what_plain_steps_do(name):
    model = small(name).cuda()
    tokens = tokens_for(model.spec, 2, 4).cuda()
    plain, *ours = (
        model.generate(tokens, 12, temperature=0, cuda_graph=each) for each in ("off", "on", "on")
    )
    assert all(torch.equal(plain, each) for each in ours)
