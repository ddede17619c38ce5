"""Specs changed at random, also into other valid ones: refused with words, or built and trained."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from mutants import LARGEST, mutant
from samples import FULL

import composer
from composer.costs.counting.plan import count, make_plan
from composer.language.load import loads
from composer.language.schema.spec import Spec
from composer.settings.errors import SpecError
from composer.testing.models import tokens_for

MUTANTS = 20_000 if FULL else 1_000
PARTS = 20 if FULL else 2
TRAINED = 20
"""Of so many accepted specs one is trained for a step."""
HANGS = 120
"""Seconds after which work on one small file counts as endless."""


@contextmanager
def bounded(text: str) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"no end to {text}")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def accepted(text: str) -> Spec | None:
    """Load and plan a spec; None where it is refused, with the place of every fault and what was expected."""
    try:
        spec = loads(text, "mutant")
        make_plan(spec.model_copy(update={"caps": type(spec.caps)()}))
        return spec
    except SpecError as error:
        faults = error.faults
    assert all(fault.path and fault.expected for fault in faults), faults
    return None


def check_trains(spec: Spec) -> None:
    """Train one step on few tokens, within the caps or without them."""
    model = composer.compile(spec.model_copy(update={"caps": type(spec.caps)()}))
    tokens = tokens_for(spec, 2, min(spec.model.context, 12))
    loss = model.train().loss(tokens, tokens, model.draw_steps(0, rows=len(tokens)) or None)
    loss.backward()
    assert loss.isfinite()
    gradients = [each.grad for each in model.parameters() if each.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def is_small(spec: Spec) -> bool:
    steps = sum(stage.trips for stage in spec.stages)
    return count(spec).params <= LARGEST and steps <= 64 and spec.model.width <= 128


@pytest.mark.parametrize("part", range(PARTS))
def test_a_mutated_spec_is_refused_with_words_or_builds_and_trains(part: int) -> None:
    kept = 0
    for seed in range(part, MUTANTS, PARTS):
        text = mutant(seed)
        with bounded(text):
            try:
                spec = accepted(text)
                if spec is None:
                    continue
                kept += 1
                if kept % (1 if FULL else TRAINED) == 0 and is_small(spec):
                    with torch.random.fork_rng():
                        check_trains(spec)
            except Exception as error:
                error.add_note(f"mutant {seed}: {text}")
                raise
    assert kept > MUTANTS // PARTS // 20, "hardly any mutant is valid"
