"""Tokens per second of cached generation, beside transformers and x-transformers on the same transformer."""

import time

import pytest
import torch

import composer
from composer.testing.models import make

WIDTH, LAYERS, HEADS, VOCAB, HIDDEN = 256, 6, 4, 1000, 704
PROMPT, NEW, ROUNDS = 16, 200, 4


def ours():
    spec = {
        "schema": 1,
        "name": "llama",
        "model": {"width": WIDTH, "vocab": VOCAB, "context": 512, "tie_embeddings": False},
        "blocks": {
            "seq": {"type": "sequence_attention", "heads": HEADS},
            "ffn": {"type": "feed_forward", "hidden": HIDDEN},
        },
        "stages": [{"stack": LAYERS, "step": ["seq", "ffn"]}],
    }
    model = composer.compile(make(spec))
    return model, lambda tokens: model.generate(tokens, NEW, temperature=0)


def hugging_face():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    exactly = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    return model, lambda tokens: model.generate(tokens, **exactly)


def x_transformers():
    package = pytest.importorskip("x_transformers")
    layers = package.Decoder(
        dim=WIDTH,
        depth=LAYERS,
        heads=HEADS,
        attn_dim_head=WIDTH // HEADS,
        rotary_pos_emb=True,
        use_rmsnorm=True,
        ff_swish=True,
        ff_glu=True,
        ff_no_bias=True,
        ff_mult=HIDDEN / WIDTH,
        attn_flash=True,
    )
    model = package.TransformerWrapper(
        num_tokens=VOCAB, max_seq_len=512, use_abs_pos_emb=False, attn_layers=layers
    ).eval()
    run = package.AutoregressiveWrapper(model)
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
