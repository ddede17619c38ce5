"""The README of a folder that `transformers` loads."""

from __future__ import annotations

from composer.language.schema.spec import Spec

OLDEST = "4.55.4"
"""The first release of transformers that exported models were tested with; earlier ones index the cache."""

_CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [custom_code]
---

# {name}

A language model with a vocabulary of {vocab:,} tokens and a context of {context:,}. `model.py` is the model
in plain PyTorch, with its spec at the end; `modeling.py` is the class that transformers loads. It needs
torch, safetensors and **transformers {oldest} or later**;
earlier releases are refused when the model is loaded.

```python
{example}
```

{cache}
"""

_TEXT = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
made = model.generate(**tokenizer("Once", return_tensors="pt"), max_new_tokens=20)
print(tokenizer.decode(made[0]))"""

_NUMBERS = """import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("FOLDER", trust_remote_code=True)
print(model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=20))"""

_CACHED = """`generate` keeps keys, values and states of earlier tokens in an `ExportedCache`. Rows of
different lengths are padded at their beginning (`padding_side="left"`, with an `attention_mask`); without a
cache at their end too. Arguments that the model does not take are refused: `inputs_embeds`, `position_ids`,
`output_attentions`, `output_hidden_states`."""

_UNCACHED = """The model keeps nothing of earlier tokens, so `generate` computes all tokens again for each new
one: it has operations that do not run token by token, which are named in `modeling.py`. Rows of different
lengths may be padded at their beginning or end, with an `attention_mask`."""


def model_card(spec: Spec, uncached: str, text: bool) -> str:
    """Return the README in Markdown.

    Args:
        spec: the exported model's spec.
        uncached: why the model has no cache; "" if it has one.
        text: whether the folder has a tokenizer.
    """
    return _CARD.format(
        name=spec.name,
        vocab=spec.model.vocab,
        context=spec.model.context,
        oldest=OLDEST,
        example=_TEXT if text else _NUMBERS,
        cache=_UNCACHED if uncached else _CACHED,
    )
