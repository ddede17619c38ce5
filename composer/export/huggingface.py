"""A model as a folder that `transformers` loads with `trust_remote_code=True`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from composer.data.base.codec import Numbers
from composer.export.pytorch import export
from composer.module.model import ComposedModel

_MODELING = '''"""The model of `model.py` as `transformers` wants it."""

import torch.nn.functional as F
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .model import Model


class ExportedConfig(PretrainedConfig):
    """Sizes that others ask for; what the model is stands in `model.py`."""

    model_type = "composer-export"


class ExportedForCausalLM(PreTrainedModel, GenerationMixin):
    """Logits [batch, sequence, vocab] of tokens [batch, sequence]; nothing is kept between tokens."""

    config_class = ExportedConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = Model()
        self.post_init()

    def _init_weights(self, module):
        # what is not in the file of weights: counters of a training pass
        for name in module._non_persistent_buffers_set:
            getattr(module, name).zero_()

    def forward(self, input_ids, attention_mask=None, labels=None, **others):
        """Return logits, and with labels [batch, sequence] at the places of their tokens the loss."""
        if attention_mask is not None and bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any()):
            raise ValueError("attention_mask: expected rows padded at their end (padding_side='right')")
        if labels is None:
            return CausalLMOutput(logits=self.model(input_ids))
        logits, loss = self.model(input_ids, F.pad(labels[:, 1:], (0, 1), value=-100))
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **others):
        """Return all tokens so far."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}
'''


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
    texts = {"model.py": made.source, "modeling.py": _MODELING, "config.json": _json(config)}
    texts["generation_config.json"] = _json({"use_cache": False, **ends})
    if (tokenizer := codec.tokenizer()) is not None:
        texts["tokenizer.json"] = _json(tokenizer)
        kind = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": sizes.context}
        texts["tokenizer_config.json"] = _json({**kind, "clean_up_tokenization_spaces": False})
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    weights = folder / "model.safetensors"
    save_file({f"model.{name}": each for name, each in made.weights.items()}, weights, {"format": "pt"})
    return [*(folder / name for name in texts), weights]


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
