"""CPU time of a training step, beside transformers and x-transformers on the same transformer."""

import statistics
import time
from functools import partial

import llamas
import pytest
import torch
import torch.nn.functional as F

import composer

VOCAB, LENGTH = 1000, 64
# width, layers, heads, hidden, sequences, rounds
SIZES = {
    "0.2M": (64, 2, 2, 176, 16, 40),
    "1M": (128, 4, 4, 344, 16, 30),
    "5M": (256, 6, 4, 704, 8, 15),
    "27M": (512, 8, 8, 1376, 4, 8),
}


def ours(*shape, compiled):
    model = composer.compile(llamas.ours(*shape), torch_compile="on" if compiled else "off")
    return model, model.loss


def hugging_face(*shape, compiled):
    model = llamas.hugging_face(*shape, use_cache=False)
    run = torch.compile(model) if compiled else model
    return model, lambda tokens, targets: cross_entropy(run(tokens).logits, targets)


def x_transformers(*shape, compiled):
    model = llamas.x_transformers(*shape)
    run = torch.compile(model) if compiled else model
    return model, lambda tokens, targets: cross_entropy(run(tokens), targets)


def cross_entropy(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def step(model, loss, tokens, targets):
    model.zero_grad(set_to_none=True)
    loss(tokens, targets).backward()


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("size", SIZES)
def test_step_times_beside_libraries(size, compiled, capsys):
    *shape, sequences, rounds = SIZES[size]
    built = {
        make_one.__name__: make_one(*shape, VOCAB, LENGTH, compiled=compiled)
        for make_one in (ours, hugging_face, x_transformers)
    }
    sizes = [sum(each.numel() for each in model.parameters()) for model, _ in built.values()]
    assert max(sizes) < 1.01 * min(sizes)
    tokens, targets = torch.randint(VOCAB, (2, sequences, LENGTH))
    runs = {
        name: partial(step, model.train(), loss, tokens, targets) for name, (model, loss) in built.items()
    }
    times = {name: [] for name in runs}
    for turn in range(rounds + 2):
        names = [*runs] if turn % 2 else [*runs][::-1]
        for name in names:
            # of this process alone, since others use the machine too
            began = time.process_time()
            runs[name]()
            # the first rounds warm up, and compile
            times[name].extend([time.process_time() - began] if turn > 1 else [])
    cells = [f"{1000 * statistics.median(times['ours']):.1f} ms"]
    for name in ("hugging_face", "x_transformers"):
        ratios = [mine / theirs for mine, theirs in zip(times["ours"], times[name], strict=True)]
        cells.append(f"{statistics.median(ratios):.2f}")
    with capsys.disabled():
        way = "compiled" if compiled else "eager"
        print(f"\n| {size}, {way} | {' | '.join(cells)} |")
