"""One transformer three times: a spec of ours, and the models of transformers and x-transformers."""

import pytest

from composer.testing.models import make


def ours(width, layers, heads, hidden, vocab, context):
    return make(
        {
            "schema": 1,
            "name": "llama",
            "model": {"width": width, "vocab": vocab, "context": context, "tie_embeddings": False},
            "blocks": {
                "seq": {"type": "sequence_attention", "heads": heads},
                "ffn": {"type": "feed_forward", "hidden": hidden},
            },
            "stages": [{"stack": layers, "step": ["seq", "ffn"]}],
        }
    )


def hugging_face(width, layers, heads, hidden, vocab, context, **options):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        **options,
    )
    return transformers.LlamaForCausalLM(config)


def x_transformers(width, layers, heads, hidden, vocab, context):
    package = pytest.importorskip("x_transformers")
    made = package.Decoder(
        dim=width,
        depth=layers,
        heads=heads,
        attn_dim_head=width // heads,
        rotary_pos_emb=True,
        use_rmsnorm=True,
        ff_swish=True,
        ff_glu=True,
        ff_no_bias=True,
        ff_mult=hidden / width,
        attn_flash=True,
    )
    return package.TransformerWrapper(
        num_tokens=vocab, max_seq_len=context, use_abs_pos_emb=False, attn_layers=made
    )
