"""What a reader of an exported file is told holds: shapes in comments, names, lines that fit a screen."""

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from models import close, module_of, shortened, tokens_for

import composer
from composer.export.pytorch import export

FAMILY = Path(__file__).parents[2] / "specs" / "family"
SHAPE = re.compile(r"\)  # \[([^\]]*)\](, complex)?$")


def claims_of(source):
    """Return (name, shape) of each commented assignment, by the first line of the function that it is in."""
    result, lines = defaultdict(list), source.splitlines()
    functions = [each for each in ast.walk(ast.parse(source)) if isinstance(each, ast.FunctionDef)]
    for each in functions:
        for node in ast.walk(each):
            if isinstance(node, ast.Assign) and (shape := SHAPE.search(lines[node.end_lineno - 1])):
                target = node.targets[0]
                name = target.elts[0] if isinstance(target, ast.Tuple) else target
                result[each.lineno].append((name.id, shape.group(1).split(", ")))
    return result


@pytest.mark.parametrize("name", ["gpt2", "dreamer-sequential", "mixture-of-recursions-token", "mla"])
def test_shapes_in_comments_are_those_of_the_values(name):
    spec = shortened(composer.load(FAMILY / f"{name}.yaml"), 12)
    made = export(composer.compile(spec))
    module, claims, checked = module_of(made.source), claims_of(made.source), set()
    model = module.Model().eval()
    model.load_state_dict(made.weights)
    sizes = {"B": 2, "S": 7}

    def traced(frame, event, _):
        if frame.f_code.co_filename != "exported_model.py":
            return None
        if event == "return":
            for value, shape in claims.get(frame.f_code.co_firstlineno, ()):
                if isinstance(got := frame.f_locals.get(value), torch.Tensor):
                    wanted = [sizes.get(each) or each for each in shape]
                    pairs = zip(got.shape, wanted, strict=True)
                    assert all(b == "chosen" or a == int(b) for a, b in pairs), (value, shape, got.shape)
                    checked.add((frame.f_code.co_firstlineno, value))
        return traced

    before = sys.gettrace()
    sys.settrace(traced)
    try:
        with torch.no_grad():
            model(*[tokens_for(spec, 2, 7)] * 2)
    finally:
        sys.settrace(before)
    assert len(checked) == sum(map(len, claims.values())) > 10


def test_lines_fit_a_screen_and_names_are_those_of_the_spec():
    source = export(composer.compile(FAMILY / "dreamer-sequential.yaml")).source
    assert max(map(len, source.splitlines())) <= 130
    assert "for step in range(" in source


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torch_compile_traces_an_exported_model():
    model = composer.compile(shortened(composer.load(FAMILY.parent / "dreamer-tiny.yaml"), 12))
    made = export(model)
    exported = module_of(made.source).Model()
    exported.load_state_dict(made.weights)
    tokens = tokens_for(model.spec, 2, 7)
    results = []
    for run in (exported, torch.compile(exported, backend="aot_eager")):
        exported.zero_grad()
        logits, loss = run(tokens, tokens)
        loss.backward()
        results.append({"logits": logits, **{name: each.grad for name, each in exported.named_parameters()}})
    close(*results, 1e-5)
