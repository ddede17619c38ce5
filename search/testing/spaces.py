"""A small space for the suites; nothing is trained."""

from __future__ import annotations

from composer.language.load import read_text
from composer.language.space import Space

TEXT = """\
schema: 1
name: toy
model: {width: {choice: [16, 32, 64]}, vocab: 8, context: 32}
blocks:
  seq: {type: sequence_attention, heads: 2, kv_heads: {choice: [1, 2]}}
  depth: {type: depth_attention, heads: 2}
  expert:
    {type: expert_attention, experts: {choice: [4, 8]}, active: {int: [1, 6]}, hidden: {choice: [16, 32, 64]}}
stages:
  - recur: {int: [1, 6]}
    step:
      choice:
        plain: [seq, expert]
        dreamer: [seq, depth, expert]
caps: {params: 60k, flops_per_token: 200k}
train:
  data: {task: hop, length: 32, symbols: 4, hops: 2}
  tokens: 8Ki
  batch_tokens: 1Ki
search:
  objectives: [{maximize: accuracy}]
  trials: 6
  rungs: [2Ki, 4Ki]
"""
FEW = (
    "model.width=16",
    "blocks.expert={type: expert_attention, experts: 4, active: 1, hidden: 16}",
    "stages.0.recur=2",
)
"""Settings that restrict it to four points."""
TWO = "search.objectives=[{maximize: accuracy}, {minimize: flops_per_token}]"


def toy(*settings: str) -> Space:
    """Return the space with some settings."""
    return Space(read_text(TEXT, "toy.yaml", settings))
