"""A model as a folder that `transformers` loads with `trust_remote_code=True`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from composer.data.base.codec import Numbers
from composer.export.model_card import OLDEST, model_card
from composer.export.pytorch import export
from composer.module.model import ComposedModel

_MODELING = '''"""The model of `model.py` as `transformers` wants it."""

import torch
import torch.nn.functional as F
import transformers
from packaging.version import Version
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .model import {names}

if Version(transformers.__version__) < Version("{oldest}"):
    raise ImportError(f"this model needs transformers {oldest} or later, got {transformers.__version__}")

# before transformers 5.24 a cache is called `past_key_values`
_CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class ExportedConfig(PretrainedConfig):
    """Sizes that others ask for; what the model is stands in `model.py`."""

    model_type = "composer-export"

{cache}
class ExportedForCausalLM(PreTrainedModel, GenerationMixin):
    """Logits [batch, sequence, vocab] of tokens [batch, sequence]."""

    config_class = ExportedConfig
    supports_cache = {supports}
    # the loss is a mean over the tokens of a call: a Trainer divides it by the calls of an optimizer step
    accepts_loss_kwargs = False

    def __init__(self, config):
        super().__init__(config)
        self.model = Model()
        self.post_init()

    def _init_weights(self, module):
        # what is not in the file of weights: counters of a training pass
        for name in module._non_persistent_buffers_set:
            getattr(module, name).zero_()

    @classmethod
    def _supports_default_dynamic_cache(cls):
        return False
{forward}

def _refuse(others):
    """Raise ValueError for arguments of other models that would change what is returned."""
    for name in ("inputs_embeds", "position_ids", "output_attentions", "output_hidden_states"):
        if others.get(name) is not None and others[name] is not False:
            raise ValueError(f"{name}: expected none, since this model does not take it")


def _padding(mask):
    """Return how many tokens at the beginning, and at the end, of each row [batch] a mask leaves out.

    None stands for none in any row.
    """
    if mask is None or bool(mask.all()):
        return None, None
    out = mask == 0
    left, right = (each.long().cumprod(1).sum(1) for each in (out, out.flip(1)))
    if bool((left + right != out.sum(1)).any()):
        raise ValueError("attention_mask: expected rows padded at their beginning or end")
    return (left if bool(left.any()) else None), (right if bool(right.any()) else None)


def _turned(x, by):
    """Return rows x [batch, sequence] that begin `by` [batch] places later, and end with what was before."""
    place = (torch.arange(x.shape[1], device=x.device) + by[:, None]) % x.shape[1]
    return x[torch.arange(len(x), device=x.device)[:, None], place]
'''

_CACHE = '''
class ExportedCache(Past):
    """What is kept of earlier tokens, with room for `capacity` of them."""

    is_linear = ()
    is_compileable = is_croppable = False

    def get_seq_length(self, layer_idx=0):
        """Return how many tokens there were, padding included."""
        return self.position

    def reorder_cache(self, beam_idx):
        """Go on with rows of the batch, by their numbers."""
        self.take_rows(beam_idx)

'''

_FORWARD = '''
    def forward(
        self,
        input_ids,
        attention_mask=None,
        labels=None,
        use_cache=None,
        cache=None,
        past_key_values=None,
        **others,
    ):
        """Return logits, and with labels [batch, sequence] at the places of their tokens the loss.

        With a cache, which `use_cache` makes, tokens come after those that it has. Rows of a batch are padded
        at their beginning, or where nothing comes after them at their end; positions count from a row's first
        token.
        """
        _refuse(others)
        past = self._past(use_cache, cache, past_key_values)
        if past is not None and past.position + input_ids.shape[1] > past.capacity:
            raise ValueError(f"cache: expected at most {past.capacity} tokens")
        if past is not None and past.position:
            if labels is not None:
                raise ValueError("labels: expected none beside a cache that has tokens")
            # each token sees those before it
            parts = [self.model(token, past=past) for token in torch.split(input_ids, 1, 1)]
            return CausalLMOutputWithPast(logits=torch.cat(parts, 1), **{_CACHE: past})
        left, right = _padding(attention_mask)
        if past is not None:
            if right is not None:
                expected = "expected rows padded at their beginning beside a cache (padding_side='left')"
                raise ValueError(f"attention_mask: {expected}")
            past.padding = left
        targets = None
        if left is not None:
            input_ids = _turned(input_ids, left)
            labels = None if labels is None else _turned(labels, left)
        if labels is not None:
            targets = F.pad(labels[:, 1:], (0, 1), value=-100)
        made = self.model(input_ids, targets, past)
        logits, loss = made if labels is not None else (made, None)
        if left is not None:
            logits = _turned(logits, -left)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{_CACHE: past})

    def _past(self, use_cache, *given):
        past = next((each for each in given if each is not None), None)
        if past is not None and not isinstance(past, Past):
            raise ValueError(f"cache: expected an ExportedCache, got {type(past).__name__}")
        return ExportedCache(self.config.max_position_embeddings) if past is None and use_cache else past

    def prepare_inputs_for_generation(
        self, input_ids, attention_mask=None, use_cache=None, cache=None, past_key_values=None, **others
    ):
        """Return the tokens that the cache has not seen."""
        past = self._past(use_cache, cache, past_key_values)
        done, given = 0 if past is None else past.position, input_ids.shape[1]
        if given <= done:
            raise ValueError(f"cache: expected fewer than the {given} tokens of input_ids, got {done}")
        return {"input_ids": input_ids[:, done:], "attention_mask": attention_mask, _CACHE: past}
'''

_UNCACHED = '''
    def forward(self, input_ids, attention_mask=None, labels=None, **others):
        """Return logits, and with labels [batch, sequence] at the places of their tokens the loss."""
        _refuse(others)
        left, _ = _padding(attention_mask)
        if left is not None:
            input_ids = _turned(input_ids, left)
            labels = None if labels is None else _turned(labels, left)
        loss = None
        if labels is None:
            logits = self.model(input_ids)
        else:
            logits, loss = self.model(input_ids, F.pad(labels[:, 1:], (0, 1), value=-100))
        logits = logits if left is None else _turned(logits, -left)
        return CausalLMOutputWithPast(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **others):
        """Return all tokens so far."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}
'''


def modeling(uncached: str) -> str:
    """Return the modelling code, without a cache where `uncached` says why."""
    pieces = {
        "oldest": OLDEST,
        "names": "Model" if uncached else "Model, Past",
        "cache": "" if uncached else _CACHE,
        "supports": f"False  # {uncached}" if uncached else "True",
        "forward": _UNCACHED if uncached else _FORWARD,
    }
    made = _MODELING
    for name, text in pieces.items():
        made = made.replace(f"{{{name}}}", text)
    return made


def write_huggingface(model: ComposedModel, folder: Path) -> list[Path]:
    """Write a model into a folder with its code, weights, config, and tokenizer if its task has text.

    Returns the files.
    """
    from safetensors.torch import save_file

    made, train, sizes = export(model), model.spec.train, model.spec.model
    codec = Numbers() if train is None else train.data.codec()
    ends = {} if codec.end is None else {"eos_token_id": codec.end}
    config = {
        "architectures": ["ExportedForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling.ExportedConfig",
            "AutoModelForCausalLM": "modeling.ExportedForCausalLM",
        },
        "dtype": "float32",
        "model_type": "composer-export",
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.width,
        "max_position_embeddings": sizes.context,
    }
    texts = {"model.py": made.source, "modeling.py": modeling(made.uncached), "config.json": _json(config)}
    texts["README.md"] = model_card(model.spec, made.uncached, codec.tokenizer() is not None)
    texts["generation_config.json"] = _json({"use_cache": not made.uncached, **ends})
    if (tokenizer := codec.tokenizer()) is not None:
        texts["tokenizer.json"] = _json(tokenizer)
        tokenizer_config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": sizes.context,
            "clean_up_tokenization_spaces": False,
            # transformers 4 adds token_type_ids otherwise, which the model does not take
            "model_input_names": ["input_ids", "attention_mask"],
        }
        texts["tokenizer_config.json"] = _json(tokenizer_config)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    weights = folder / "model.safetensors"
    save_file({f"model.{name}": each for name, each in made.weights.items()}, weights, {"format": "pt"})
    return [*(folder / name for name in texts), weights]


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
