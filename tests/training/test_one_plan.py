"""A run makes its plan once: costs, module and run folder take it."""

from collections import Counter

import pytest
from runs import spec

import composer
from composer.costs.counting import plan as plans
from composer.module import model as models
from composer.training.run import run_training


@pytest.fixture
def calls(monkeypatch):
    found = Counter()

    def counted(name):
        function = getattr(plans, name)

        def call(*args, **options):
            found[name] += 1
            return function(*args, **options)

        return call

    compiled, chosen = counted("compile_graph"), counted("choose")
    for module in (plans, models):
        monkeypatch.setattr(module, "compile_graph", compiled)
    monkeypatch.setattr(plans, "choose", chosen)
    return found


CAPPED = "caps={train_memory: {soft: 200KiB}}"


def test_a_run_compiles_its_graph_once_for_costs_and_once_for_its_device(tmp_path, calls):
    run_training(spec(CAPPED, "train.tokens=512"), tmp_path / "run")
    assert calls == {"compile_graph": 2, "choose": 1}
    assert "recomputed in the backward pass" in (tmp_path / "run" / "plan.txt").read_text()


def test_a_compiled_model_takes_the_plan_that_its_caps_were_checked_by(calls):
    model = composer.compile(spec(CAPPED))
    assert model._recompute
    assert calls == {"compile_graph": 1, "choose": 1}
