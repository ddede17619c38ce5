"""Tokens per second of cached generation, beside transformers and x-transformers on the same transformer."""

import time

import llamas
import pytest
import torch

import composer

VOCAB = 1000
SHAPE = (256, 6, 4, 704, VOCAB, 512)
PROMPT, NEW, ROUNDS = 16, 200, 4


def ours():
    model = composer.compile(llamas.ours(*SHAPE))
    return model, lambda tokens: model.generate(tokens, NEW, temperature=0)


def hugging_face():
    model = llamas.hugging_face(*SHAPE).eval()
    exactly = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    return model, lambda tokens: model.generate(tokens, **exactly)


def x_transformers():
    model = llamas.x_transformers(*SHAPE).eval()
    run = pytest.importorskip("x_transformers").AutoregressiveWrapper(model)
    return model, lambda tokens: run.generate(tokens, NEW, temperature=0.0, cache_kv=True)


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rows", [1, 8])
def test_tokens_per_second(rows, capsys):
    built = {make_one.__name__: make_one() for make_one in (ours, hugging_face, x_transformers)}
    sizes = [sum(each.numel() for each in model.parameters()) for model, _ in built.values()]
    assert max(sizes) < 1.01 * min(sizes)
    tokens = torch.randint(VOCAB, (rows, PROMPT))
    torch.set_num_threads(1)
    best = dict.fromkeys(built, float("inf"))
    for turn in range(ROUNDS + 1):
        for name, (_, run) in built.items():
            # of one thread: what other work of the machine takes is not counted
            began = time.process_time()
            with torch.no_grad():
                run(tokens)
            # the first round warms up
            best[name] = min(best[name], time.process_time() - began) if turn else best[name]
    rates = {name: rows * NEW / seconds for name, seconds in best.items()}
    with capsys.disabled():
        message = ", ".join(
            f"{name} {rate:.0f} tokens/s ({rates['ours'] / rate:.2f})" for name, rate in rates.items()
        )
        print(f"\n{rows} rows: {message}")
