"""What the tests of the spec language start from."""

from __future__ import annotations

TINY = """\
schema: 1
name: tiny
model: {width: 64, vocab: 32, context: 64}
blocks:
  seq: {type: sequence_attention, heads: 4, kv_heads: 2}
  depth: {type: depth_attention, heads: 4}
  expert: {type: expert_attention, experts: 16, active: 2, hidden: 64}
stages:
  - recur: 4
    step: [seq, depth, expert]
caps: {params: 400k, train_memory: 2GiB}
train:
  data: {task: hop, length: 48, symbols: 4, hops: 4}
  tokens: 1M
  lr: 3e-3
"""

SPACE = """\
extends: tiny.yaml
name: small
let: {w: {choice: [64, 96, 128]}}
model: {width: "${w}"}
blocks:
  expert: {experts: {choice: [8, 16]}, active: {int: [1, 4]}, hidden: {int: [32, 256], step: 32}}
stages:
  - recur: {choice: [2, 4]}
    step:
      choice:
        plain: [seq, expert]
        dreamer: [seq, depth, expert]
        side: [{parallel: [seq, depth], combine: {choice: [sum, gate]}}, expert]
train: {lr: {float: [1e-4, 1e-2], log: true}}
search:
  objectives: [{maximize: accuracy}, {minimize: flops_per_token}]
  trials: 8
  rungs: [250k, 1M]
  baselines: [tiny.yaml]
"""
