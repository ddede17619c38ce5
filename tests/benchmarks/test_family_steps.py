"""CPU time of a step, forward and backward, of specs of the family beside the same models written by hand."""

import statistics
import time
from pathlib import Path

import pytest
import torch
from by_hand import SPECS, loss

import composer
from composer.module.model import ComposedModel

FAMILY = Path(__file__).parents[2] / "specs" / "family"
SEQUENCES, ROUNDS = 32, 12


def contestants(name):
    spec = composer.load(FAMILY / f"{name.partition(',')[0]}.yaml", SPECS[name])
    model = ComposedModel(spec, torch_compile="off").train()
    held = dict(model.named_parameters()) | dict(model.named_buffers())
    draw = torch.Generator().manual_seed(0)
    for each in model.parameters():
        # weights that start at 0 would hide others
        each.data += 0.02 * torch.randn(each.shape, generator=draw)
    tokens, targets = torch.randint(spec.model.vocab, (2, SEQUENCES, spec.model.context), generator=draw)
    ours, theirs = lambda: model.loss(tokens, targets), lambda: loss(spec, held, tokens, targets)
    return model, ours, theirs


def gradients(model, run):
    value = run()
    model.zero_grad(set_to_none=True)
    value.backward()
    return value.detach(), {key: each.grad for key, each in model.named_parameters() if each.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_what_is_written_by_hand_is_the_same_model(name):
    model, *runs = contestants(name)
    (ours, by_ours), (theirs, by_theirs) = (gradients(model, run) for run in runs)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert by_ours.keys() == by_theirs.keys()
    for key, each in by_ours.items():
        torch.testing.assert_close(
            each, by_theirs[key], rtol=1e-3, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.benchmark
@pytest.mark.slow
def test_step_times(capsys):
    """Time of the processor, not of the clock: other processes change the latter by tens of percent."""
    rows = []
    for name in SPECS:
        model, *runs = contestants(name)
        times = ([], [])
        for turn in range(ROUNDS + 2):
            for number in (0, 1) if turn % 2 else (1, 0):
                began = time.process_time()
                gradients(model, runs[number])
                # the first rounds warm up
                times[number].extend([time.process_time() - began] if turn > 1 else [])
        ours, theirs = (1000 * statistics.median(each) for each in times)
        ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
        rows.append(f"| {name} | {ours:.1f} | {theirs:.1f} | {ratio:.2f} |")
    with capsys.disabled():
        print("\n| spec | ms | by hand, ms | ratio |\n| --- | ---: | ---: | ---: |", *rows, sep="\n")
