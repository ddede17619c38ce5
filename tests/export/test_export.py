"""What is exported gives the same without composer: logits, gradients, a training step, generated tokens."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import DEPTH, SEQ, tree
from hypothesis import example, given
from models import close, compiled, gradients, module_of, probe, shipped, shortened, tokens_for
from samples import samples
from strategies import make, specs

import composer
from composer.export.pytorch import export, write

FAMILY = Path(__file__).parents[2] / "specs" / "family"
TRUNCATED = tree(
    {"s": SEQ, "d": DEPTH},
    {"recur": 4, "step": ["s", "d"], "inject": "add", "backprop": {"last": 2}, "halt": {"act": 0.1}},
)
OF_OURS = re.compile(r"class \w+\(.*Function\)")
ALONE = """
import importlib.util, sys
from pathlib import Path
import torch

torch.set_num_threads(1)
for folder in map(Path, sys.argv[1:]):
    spec = importlib.util.spec_from_file_location(folder.name.replace("-", "_"), folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, kept = module.load().eval(), torch.load(folder / "kept.pt")
    with torch.no_grad():
        far = (model(kept["tokens"]) - kept["logits"]).abs().max() / kept["logits"].abs().max()
    assert far < 1e-5, (folder.name, far)
    assert torch.equal(model.generate(kept["tokens"], 4, temperature=0), kept["made"]), folder.name
    model.train()
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    for _ in range(4):
        optimizer.zero_grad()
        torch.manual_seed(0)  # losses of the same noise and number of steps
        loss = model(kept["tokens"], kept["tokens"])[1]
        loss.backward()
        optimizer.step()
        if hasattr(model, "update_expert_balance"):
            model.update_expert_balance()
        losses.append(loss.item())
    assert losses[-1] < losses[0], (folder.name, losses)
ours = {name.partition(".")[0] for name in sys.modules} & {"composer", "blocks", "search", "lightning"}
assert not ours, ours
print("done", len(sys.argv) - 1)
"""


def test_a_process_without_composer_runs_trains_and_generates_every_spec(tmp_path):
    by_name = {name: spec for name, spec in shipped().items() if name != "dreamer-small"}
    by_name |= {path.stem: composer.load(path) for path in sorted(FAMILY.glob("*.yaml"))}
    for name, spec in by_name.items():
        model = composer.compile(shortened(spec, 12)).eval()
        write(model, tmp_path / name)
        assert not OF_OURS.search((tmp_path / name / "model.py").read_text()), name
        made = tokens = tokens_for(model.spec, 2, 6)
        with torch.no_grad():
            for _ in range(4):
                made = torch.cat((made, model(made)[:, -1].argmax(-1, keepdim=True)), 1)
            kept = {"tokens": tokens, "logits": model(tokens), "made": made}
        torch.save(kept, tmp_path / name / "kept.pt")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *(str(tmp_path / name) for name in by_name)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == f"done {len(by_name)}\n", done.stderr


@samples(32)
@given(specs(room=6))
@example(make(TRUNCATED))
def test_generated_specs_have_the_same_outputs_and_gradients(spec):
    model = compiled(spec, "reference").double().eval()
    made = export(model)
    assert not OF_OURS.search(made.source)
    theirs = module_of(made.source).Model().double().eval()
    theirs.load_state_dict(made.weights)
    assert sum(each.numel() for each in theirs.parameters()) == model.plan.costs.params
    tokens = tokens_for(spec, 2, 7)
    logits = theirs(tokens)
    close({"y": logits}, {"y": model(tokens)}, 1e-9)
    probe(logits).backward()
    wanted = gradients(model, tokens)
    own = dict(theirs.named_parameters())
    got = {name: own[made.names[name]].grad for name in wanted}
    zero = {name: torch.zeros_like(each) for name, each in wanted.items()}
    close({name: zero[name] if each is None else each for name, each in got.items()}, wanted, 1e-8)


def test_the_file_says_what_it_is():
    made = export(composer.compile(FAMILY / "dreamer-sequential.yaml"))
    assert made.source.startswith('"""dreamer-sequential in plain PyTorch')
    assert "# name: dreamer-sequential" in made.source
    assert "  # [B, S, 48]" in made.source
    assert "blocks" not in made.source.replace("# blocks:", "").replace("blocks of", "")


def test_rows_end_where_ours_do_after_a_stop_token():
    model = compiled(composer.load(FAMILY / "llama.yaml")).eval()
    made = export(model)
    theirs = module_of(made.source).Model().train()
    theirs.load_state_dict(made.weights)
    tokens, widths = tokens_for(model.spec, 4, 3), set()
    plain = model.generate(tokens, 40, temperature=0)
    # a token that some rows come to soon and others late, one that they all come to, and none of both
    for stop in (plain[0, 5].item(), plain[:, 4].unique().tolist(), [*range(model.spec.model.vocab)], ()):
        wanted = model.generate(tokens, 40, temperature=0, stop=stop or None)
        assert torch.equal(theirs.generate(tokens, 40, temperature=0, stop=stop), wanted)
        widths.add(wanted.shape[1])
    assert {4, 43} < widths
    assert theirs.training


LIMITS = [{"top_k": 4}, {"top_p": 0.6}, {"top_k": 4, "top_p": 0.8}, {"top_k": 99, "top_p": 0.6}]


@pytest.mark.parametrize("limit", LIMITS)
def test_tokens_are_sampled_among_those_that_ours_are(limit):
    model = compiled(composer.load(FAMILY / "llama.yaml")).eval()
    theirs = module_of(export(model).source).Model()
    theirs.load_state_dict(export(model).weights)
    tokens = tokens_for(model.spec, 1, 3).expand(2000, -1)
    torch.manual_seed(0)
    made, wanted = (each.generate(tokens, 1, temperature=0.7, **limit)[:, -1] for each in (theirs, model))
    assert set(made.tolist()) == set(wanted.tolist())


def test_an_exported_model_refuses_more_tokens_than_its_context():
    model = module_of(export(composer.compile(FAMILY / "llama.yaml")).source).Model()
    with pytest.raises(ValueError, match="2 tokens and 47 new ones: expected at most 48"):
        model.generate(torch.tensor([[1, 2]]), 47)


def test_an_exported_model_with_broken_weights_says_so():
    model = module_of(export(composer.compile(FAMILY / "llama.yaml")).source).Model()
    for each in model.parameters():
        torch.nn.init.constant_(each, float("nan"))
    for temperature in (0, 1.0):
        with pytest.raises(ValueError, match="logits after 2 tokens are NaN or inf: broken weights"):
            model.generate(torch.tensor([[1, 2]]), 3, temperature=temperature)


def test_a_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch, capsys):
    from cases import TINY

    from composer.cli.main import main

    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    Path("file").touch()
    assert main(["train", "tiny.yaml", "--out", "run"]) == 0
    for out in ("file/below", "file"):
        assert main(["export", "run", "--out", out]) == 1
        assert f": {out}" in capsys.readouterr().err
