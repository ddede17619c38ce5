"""A small model of bytes, trained on a few words."""

import pytest
import torch

from composer.language.load import loads
from composer.training.run import run_training

SPEC = """
schema: 1
name: bytes
model: {width: 16, vocab: 256, context: 48}
blocks: {seq: {type: sequence_attention, heads: 2}, ffn: {type: feed_forward, hidden: 16}}
stages: [{recur: 2, step: [seq, ffn]}]
train:
  data: {task: text, length: 48, path: corpus.txt}
  tokens: 48000
  batch_tokens: 960
  lr: 1e-2
  eval: {every: 48000, tokens: 960}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "corpus.txt").write_text("the cat is on the mat. " * 200)
    spec = loads(SPEC, "bytes.yaml", [f"train.data.path={folder}/corpus.txt"])
    with torch.enable_grad():
        return run_training(spec, folder / "run").folder
