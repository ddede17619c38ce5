"""A study of two arms whose training takes no time."""

from pathlib import Path

from search.study.load import Study, load_study

SPEC = """\
schema: 1
name: base
model: {width: 32, vocab: 8, context: 32}
blocks: {seq: {type: sequence_attention, heads: 2}, mlp: {type: feed_forward, hidden: 64}}
stages: [{recur: 2, step: [seq, mlp]}]
train: {data: {task: hop, length: 32, symbols: 4, hops: 2}, tokens: 8Ki, batch_tokens: 1Ki}
"""
STUDY = """\
schema: 1
name: toy
base: base.yaml
match: [flops_per_token]
arms:
  looped: {}
  untied: {set: ['stages=[{stack: 2, step: [seq, mlp]}]']}
rates: [1e-3, 2e-3]
seeds: 2
budgets: [4Ki, 8Ki]
"""


def toy_study(folder: Path, *overrides: str, text: str = STUDY) -> Study:
    """The toy study, its base beside it."""
    (folder / "study.yaml").write_text(text)
    (folder / "base.yaml").write_text(SPEC)
    return load_study(folder / "study.yaml", overrides)
