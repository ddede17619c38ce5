"""An option file of somebody else's package is a part of everything, and no other file changes for it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cases import DREAMER
from strategies import make

from blocks import find
from blocks.base.wiring import WiringConfig
from blocks.wiring.norm import Norm
from blocks.wiring.norm.pre import PreNorm
from composer.cli.main import main
from composer.language.schema.identity import arch_hash

ROOT = Path(__file__).parents[3]
README = ROOT / "blocks" / "wiring" / "README.md"
POINTS = """\
[composer.wiring]
half = half:HalfResidual
no_step_tag = wirings:NoStepCode
embedding = wirings:StepEmbedding
entrance = wirings:StartInput
scaled = wirings:StartScaled
"""
SCRIPT = """
import json, sys
import torch, composer
from composer.costs.counting.plan import count
from composer.draw.layout import picture
from composer.draw.svg import svg
from composer.language.description.diff import differences
from composer.language.description.json_schema import schema_text
from composer.language.description.show import changed_yaml, resolved_yaml
from composer.language.load import loads
from composer.language.schema.identity import arch_hash
from composer.testing.examples import wiring_examples
from composer.testing.models import compiled, tokens_for

base = json.loads(sys.argv[1])

def tree(options, **more):
    return {**base, "stages": [{**base["stages"][0], **options, **more}]}

def spec(options, **more):
    return loads(json.dumps(tree(options, **more)))

def faults(options, **more):
    try:
        spec(options, **more)
    except composer.SpecError as error:
        return str(error)

def facts_of(options):
    found, plain = spec(options), spec({})
    model, costs = compiled(found), count(found)
    tokens = tokens_for(found)
    logits = model(tokens)
    moved = model(tokens.index_fill(1, torch.tensor([5]), 0))
    model.loss(tokens, tokens).backward()
    return {
        "hash": arch_hash(found),
        "round trip": loads(resolved_yaml(found)) == found == loads(changed_yaml(found)),
        "show": changed_yaml(found),
        "diff": [str(each) for each in differences(plain, found)],
        "picture": svg(picture(found)),
        "params": costs.params - count(plain).params,
        "built": sum(p.numel() for p in model.parameters()) - costs.params,
        "operations": sorted({row.place for row in costs.by_operation}),
        "weights": sorted(dict(model.named_parameters()).keys() - dict(compiled(plain).named_parameters())),
        "gradients": all(p.grad is not None for p in model.parameters()),
        "causal": torch.allclose(logits[:, :5], moved[:, :5], atol=1e-5),
        "unlike": not torch.allclose(logits, compiled(plain)(tokens)),
    }

print(json.dumps({
    "default": arch_hash(spec({})),
    "full": resolved_yaml(spec({})),
    "schema": schema_text(),
    "examples": wiring_examples("stage"),
    "half": facts_of({"residual": "half"}),
    "embedding": facts_of({"step_tag": "embedding"}),
    "scaled": facts_of({"entrance": {"scaled": 0.25}}),
    "by default": facts_of({"entrance": "scaled"})["hash"] == arch_hash(spec({"entrance": {"scaled": 0.5}})),
    "faults": [
        faults({"step_tag": "embedding"}, recur=1),
        faults({"step_tag": "embedding", "inject": "concat"}),
        faults({"step_marker": "learned"}),
        faults({"step_tag": "learned"}),
        faults({"entrance": {"scaled": 0}}),
        faults({"entrance": "half"}),
    ],
}))
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process says in which a package with these options is installed."""
    site = tmp_path_factory.mktemp("site")
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    (site / "half.py").write_text(code, encoding="utf-8")
    info = site / "outside_wiring-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-wiring\nVersion: 1\n")
    (info / "entry_points.txt").write_text(POINTS)
    path = os.pathsep.join(map(str, (site, ROOT / "tests" / "blocks" / "outside", ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(DREAMER)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_options_at_their_defaults_leave_every_hash_and_are_shown(facts: dict[str, Any]) -> None:
    assert facts["default"] == arch_hash(make(DREAMER))
    assert "step_tag: none\n" in facts["full"]
    assert "entrance: input\n" in facts["full"]


@pytest.mark.parametrize("name", ["half", "embedding", "scaled"])
def test_an_option_is_built_costed_hashed_shown_compared_and_drawn(facts: dict[str, Any], name: str) -> None:
    result = facts[name]
    assert result["hash"] != facts["default"]
    assert result["round trip"]
    assert result["gradients"]
    assert result["causal"]
    assert result["unlike"]
    assert result["built"] == 0
    written = {
        "half": ("residual: half", "residual add -> half", "residual half"),
        "embedding": ("step_tag: embedding", "step_tag none -> embedding", "a vector for each of 3 steps"),
        "scaled": ("scaled: 0.25", "entrance input -> {scaled: 0.25}", "entrance {scaled: 0.25}"),
    }
    show, diff, drawn = written[name]
    assert show in result["show"]
    assert result["diff"] == [f"stages.0: {diff}"]
    assert drawn in result["picture"]


def test_its_weights_and_operations_are_counted(facts: dict[str, Any]) -> None:
    assert facts["embedding"]["weights"] == ["stages.0.step.step_tag"]
    assert facts["embedding"]["params"] == 3 * DREAMER["model"]["width"]
    assert facts["half"]["params"] == facts["scaled"]["params"] == 0
    assert {"stages.0.0.half", "stages.0.2.half"} <= {*facts["half"]["operations"]}
    assert "stages.0.entrance" in facts["scaled"]["operations"]


def test_it_is_in_the_schema_and_in_generated_specs(facts: dict[str, Any]) -> None:
    assert "What a step knows of its number." in facts["schema"]
    assert '"half"' in facts["schema"]
    assert facts["examples"]["step_tag"] == ["none", "embedding"]
    assert facts["examples"]["entrance"] == ["input", "scaled"]
    assert "half" in facts["examples"]["residual"]
    assert facts["by default"]


def test_its_faults_have_places_and_hints(facts: dict[str, Any]) -> None:
    expected = [
        "stages.0.step_tag: expected none in a stage of one step",
        "stages.0.step_tag: expected none beside inject: concat",
        "stages.0.step_marker: expected a known key, got step_marker (did you mean step_tag?)",
        "stages.0.step_tag: expected none or embedding, got 'learned' (did you mean embedding?)",
        "stages.0.entrance.scaled: expected a number above 0",
        "stages.0.entrance: expected input, scaled or {scaled: ..}, got 'half'",
    ]
    for fault, words in zip(facts["faults"], expected, strict=True):
        assert words in fault


EACH = """
import sys
from composer.testing.find import find_options

# all are made known before a spec is loaded
for name in sys.argv[1:]:
    find_options(name)
from composer.cli.main import main

print([main(["conformance", name, "--kind", "wiring"]) for name in sys.argv[1:]])
"""


def conformance(*command: str) -> subprocess.CompletedProcess[str]:
    """What a process says of options of a folder that is not installed."""
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT / "tests" / "blocks" / "outside",
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def test_one_command_checks_an_option_and_finds_what_it_is_not() -> None:
    done = conformance("-c", EACH, "wirings:StartScaled", "wrong_wirings:Ignoring", "wrong_wirings:Leaking")
    assert done.returncode == 0, done.stderr
    output = done.stdout
    assert re.match(r"entrance: all \d+ checks passed\n", output)
    assert output.endswith("[0, 1, 1]\n")
    assert "ignoring: every field is honoured: computes what entered plainly does" in output
    assert "entered leaking: no leak between tokens: a token moves the outputs" in output


def test_of_an_option_that_is_not_there_the_others_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "residual.scaled", "--kind", "wiring"]) == 2
    assert "residual.scale," in capsys.readouterr().err


class OtherNorm(WiringConfig):
    """A kind of a key that is taken."""

    key = "norm"
    default = "other"
    name = "other"


class Again(Norm):
    """A name that is taken."""

    name = "pre"


class Unnamed(Norm):
    """Fields, none of them called like the option."""

    name = "unnamed"
    size: int = 1


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (OtherNorm, "the key 'norm' is already taken by blocks.wiring.norm"),
        (Again, "norm: pre is already taken by blocks.wiring.norm.pre"),
        (Unnamed, "Unnamed has fields, but none called 'unnamed'"),
    ],
)
def test_an_option_that_cannot_be_told_from_another_is_refused(
    option: type[WiringConfig], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find, "offered", lambda *_, **__: [(PreNorm, "ours"), (option, "theirs")])
    with pytest.raises(ValueError, match=re.escape(words)):
        find.wiring_options.__wrapped__()
