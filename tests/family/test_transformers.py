"""GPT-2, GPT-NeoX, Llama, MLA and Gated DeltaNet equal the classes of `transformers`.

Logits do, and the gradient of every weight.
The specs of the family are made as small as the models of tests/fixtures/transformers, and called with
functions of their weights. Autograd goes through these: gradients compare by the names of `transformers`.
"""

from pathlib import Path

import pytest
import torch
from models import close
from safetensors.torch import load_file
from torch.func import functional_call

import composer
from composer.module.model import ComposedModel

ROOT = Path(__file__).parents[2]
SMALL = (
    "model.width=16",
    "model.vocab=11",
    "model.context=8",
    "blocks.mlp.hidden=24",
    "stages.0.stack=2",
    "train=null",
)

YARN = (
    "blocks.attention.heads=2",
    "blocks.attention.kv_heads=1",
    "blocks.attention.rope_base=10",
    "blocks.attention.rope_scaling={yarn: {factor: 4, context: 16, beta_fast: 2}}",
)


MLA = ("blocks.attention.heads=2", "blocks.attention.latent=6", "blocks.attention.rope_dim=4")
HYBRID = (
    "blocks.attention=null",
    "blocks.linear={heads: 2, head_dim: 4, value_dim: 6, convolution: 3}",
    "stages=[{stack: 2, step: [linear, mlp]}]",
)


def paired(weight, heads, turned):
    """Order the rows of each head, of which the first `turned` are rotated, as pairs (2i, 2i + 1).

    In `transformers` element i is rotated with element i + turned / 2.
    """
    each = weight.unflatten(0, (heads, -1))
    halves = each[:, :turned].unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    return torch.cat([halves, each[:, turned:]], 1).flatten(0, 1)


def gpt2(w):
    yield "embedding", w["transformer.wte.weight"]
    yield "positions", w["transformer.wpe.weight"]
    yield from named("norm", w, "transformer.ln_f")
    for n in range(2):
        ours, theirs = f"stages.0.layers.{n}", f"transformer.h.{n}"
        yield from named(f"{ours}.0.norm", w, f"{theirs}.ln_1")
        yield from named(f"{ours}.1.norm", w, f"{theirs}.ln_2")
        joined = w[f"{theirs}.attn.c_attn.weight"].T.chunk(3), w[f"{theirs}.attn.c_attn.bias"].chunk(3)
        for role, weight, bias in zip(("query", "key", "value"), *joined, strict=True):
            yield f"{ours}.0.attention.{role}", weight
            yield f"{ours}.0.attention.{role}_bias", bias
        for role, name in (
            ("0.attention.out", "attn.c_proj"),
            ("1.mlp.up", "mlp.c_fc"),
            ("1.mlp.down", "mlp.c_proj"),
        ):
            yield f"{ours}.{role}", w[f"{theirs}.{name}.weight"].T
            yield f"{ours}.{role}_bias", w[f"{theirs}.{name}.bias"]


def neox(w):
    yield "embedding", w["gpt_neox.embed_in.weight"]
    yield "head", w["lm_head.weight"]
    yield from named("norm", w, "gpt_neox.final_layer_norm")
    for n in range(2):
        ours, theirs = f"stages.0.layers.{n}.0", f"gpt_neox.layers.{n}"
        yield from named(f"{ours}.norm", w, f"{theirs}.input_layernorm")
        for kind in ("", "_bias"):
            joined = w[f"{theirs}.attention.query_key_value.{'bias' if kind else 'weight'}"]
            for role, part in zip(
                ("query", "key", "value"), joined.unflatten(0, (2, 3, 8)).unbind(1), strict=True
            ):
                part = part.flatten(0, 1)
                yield f"{ours}.0.attention.{role}{kind}", part if role == "value" else paired(part, 2, 4)
        yield from named(f"{ours}.0.attention.out", w, f"{theirs}.attention.dense")
        yield from named(f"{ours}.1.mlp.down", w, f"{theirs}.mlp.dense_4h_to_h")
        # the MLP's own norm, from what the other norm makes of the same state
        (_, gain), (_, shift) = named("", w, f"{theirs}.input_layernorm")
        (_, own_gain), (_, own_shift) = named("", w, f"{theirs}.post_attention_layernorm")
        (_, up), (_, bias) = named("", w, f"{theirs}.mlp.dense_h_to_4h")
        folded = up * (own_gain / gain)
        yield f"{ours}.1.mlp.up", folded
        yield f"{ours}.1.mlp.up_bias", bias + up @ own_shift - folded @ shift


def llama(w, heads=4, kv_heads=2, head_dim=4):
    yield "embedding", w["model.embed_tokens.weight"]
    yield "head", w["lm_head.weight"]
    yield "norm", w["model.norm.weight"]
    for n in range(2):
        ours, theirs = f"stages.0.layers.{n}", f"model.layers.{n}"
        yield f"{ours}.0.norm", w[f"{theirs}.input_layernorm.weight"]
        yield f"{ours}.1.norm", w[f"{theirs}.post_attention_layernorm.weight"]
        yield f"{ours}.0.attention.query", paired(w[f"{theirs}.self_attn.q_proj.weight"], heads, head_dim)
        keys = paired(w[f"{theirs}.self_attn.k_proj.weight"], kv_heads, head_dim)
        yield f"{ours}.0.attention.key", keys
        yield f"{ours}.0.attention.value", w[f"{theirs}.self_attn.v_proj.weight"]
        yield f"{ours}.0.attention.out", w[f"{theirs}.self_attn.o_proj.weight"]
        for role in ("gate", "up", "down"):
            yield f"{ours}.1.mlp.{role}", w[f"{theirs}.mlp.{role}_proj.weight"]


def llama_yarn(w):
    yield from llama(w, 2, 1, 8)


def mla(w):
    yield "embedding", w["model.embed_tokens.weight"]
    yield "head", w["lm_head.weight"]
    yield "norm", w["model.norm.weight"]
    for n in range(2):
        ours, theirs = f"stages.0.layers.{n}", f"model.layers.{n}"
        yield f"{ours}.0.norm", w[f"{theirs}.input_layernorm.weight"]
        yield f"{ours}.1.norm", w[f"{theirs}.post_attention_layernorm.weight"]
        ours, theirs = f"{ours}.0.attention", f"{theirs}.self_attn"
        name = "q_proj" if f"{theirs}.q_proj.weight" in w else "q_b_proj"
        yield f"{ours}.query", rotated_first(w[f"{theirs}.{name}.weight"])
        if name == "q_b_proj":
            yield f"{ours}.query_latent", w[f"{theirs}.q_a_proj.weight"]
            yield f"{ours}.query_latent_norm", w[f"{theirs}.q_a_layernorm.weight"]
        latent, key = w[f"{theirs}.kv_a_proj_with_mqa.weight"].split([6, 4])
        yield from ((f"{ours}.latent", latent), (f"{ours}.rope_key", key))
        yield f"{ours}.latent_norm", w[f"{theirs}.kv_a_layernorm.weight"]
        up = w[f"{theirs}.kv_b_proj.weight"].unflatten(0, (2, -1))
        yield f"{ours}.up_key", up[:, :4].flatten(0, 1)
        yield f"{ours}.up_value", up[:, 4:].flatten(0, 1)
        yield f"{ours}.out", w[f"{theirs}.o_proj.weight"]
        for role in ("gate", "up", "down"):
            yield f"stages.0.layers.{n}.1.mlp.{role}", w[f"model.layers.{n}.mlp.{role}_proj.weight"]


def mla_queries(w):
    yield from mla(w)


def hybrid(w):
    yield "embedding", w["model.embed_tokens.weight"]
    yield "head", w["lm_head.weight"]
    # gains of these norms are kept less 1
    yield "norm", 1 + w["model.norm.weight"]
    for n in range(2):
        ours, theirs = f"stages.0.layers.{n}", f"model.layers.{n}"
        yield f"{ours}.0.norm", 1 + w[f"{theirs}.input_layernorm.weight"]
        yield f"{ours}.1.norm", 1 + w[f"{theirs}.post_attention_layernorm.weight"]
        for role in ("gate", "up", "down"):
            yield f"{ours}.1.mlp.{role}", w[f"{theirs}.mlp.{role}_proj.weight"]
        ours, theirs = f"{ours}.0.linear", f"{theirs}.linear_attn"
        each = w[f"{theirs}.in_proj_qkvz.weight"].unflatten(0, (2, -1)).split([4, 4, 6, 6], 1)
        for role, part in zip(("query", "key", "value", "gate"), each, strict=True):
            yield f"{ours}.{role}", part.flatten(0, 1)
        each = w[f"{theirs}.in_proj_ba.weight"].unflatten(0, (2, 2)).unbind(1)
        yield from ((f"{ours}.write", each[0]), (f"{ours}.forget", each[1]))
        each = w[f"{theirs}.conv1d.weight"].squeeze(1).split([8, 8, 12])
        for role, part in zip(("query", "key", "value"), each, strict=True):
            yield f"{ours}.{role}_convolution", part
        yield from ((f"{ours}.rate", w[f"{theirs}.A_log"]), (f"{ours}.shift", w[f"{theirs}.dt_bias"]))
        yield f"{ours}.mix_norm", w[f"{theirs}.norm.weight"]
        yield f"{ours}.out", w[f"{theirs}.out_proj.weight"]


def rotated_first(weight):
    """Order the rows of each of 2 heads with the 4 rotated ones, last in `transformers`, first."""
    each = weight.unflatten(0, (2, -1))
    return torch.cat([each[:, 4:], each[:, :4]], 1).flatten(0, 1)


def named(ours, w, theirs):
    return (ours, w[f"{theirs}.weight"]), (f"{ours}_bias", w[f"{theirs}.bias"])


@pytest.mark.parametrize(
    ("weights_of", "options"),
    [
        (gpt2, ("blocks.attention.heads=2",)),
        (neox, ("blocks.attention.heads=2", "blocks.attention.rope_fraction=0.5")),
        (llama, ()),
        (llama_yarn, YARN),
        (mla, MLA),
        (mla_queries, (*MLA, "blocks.attention.query_latent=5")),
        (hybrid, HYBRID),
    ],
    ids=["gpt2", "neox", "llama", "llama with YaRN", "MLA", "MLA, queries of a latent", "Gated DeltaNet"],
)
@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_a_model_equals_that_of_transformers(weights_of, options, kernels):
    name = weights_of.__name__
    held = load_file(ROOT / "tests" / "fixtures" / "transformers" / f"{name}.safetensors")
    spec = composer.load(ROOT / "specs" / "family" / f"{name.partition('_')[0]}.yaml", [*SMALL, *options])
    model = ComposedModel(spec, kernels).double().eval()
    leaves = {
        key.removeprefix("weights."): tensor.requires_grad_()
        for key, tensor in held.items()
        if key.startswith("weights.")
    }
    weights = dict(weights_of(leaves))
    assert {key: tensor.shape for key, tensor in weights.items()} == {
        key: parameter.shape for key, parameter in model.named_parameters()
    }
    logits = functional_call(model, weights, held["tokens"])
    (logits * held["probe"]).sum().backward()
    # angles of rotations are in fp32, there as here; so is the delta rule there
    tolerance = {"gpt2": 1e-10, "hybrid": 1e-4}.get(name, 1e-5)
    close({"logits": logits}, {"logits": held["logits"]}, tolerance)
    gradients = {key: leaf.grad for key, leaf in leaves.items()}
    close(gradients, {key: held[f"gradients.{key}"] for key in leaves}, tolerance)
