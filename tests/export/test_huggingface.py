"""transformers loads the folder, and computes and generates the same; its tokenizer is ours."""

import json
from pathlib import Path

import pytest
import torch
from models import shortened, tokens_for

import composer
from composer.cli.main import main
from composer.data.base.codec import Utf8
from composer.export.huggingface import write_huggingface

ROOT = Path(__file__).parents[2]
TEXTS = ("plain words", "Grüße, 🙂 ÿ\n\tand  more", "")
BYTES = """
schema: 1
name: bytes
model: {width: 8, vocab: 256, context: 32}
blocks: {seq: {type: sequence_attention, heads: 1}}
stages: [{recur: 2, step: [seq]}]
train: {data: {task: text, path: corpus.txt, length: 32}, tokens: 640, batch_tokens: 64, lr: 1e-3}
"""


def test_the_letters_of_bytes_are_those_of_byte_level_bpe():
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer.from_str(json.dumps(Utf8().tokenizer()))
    for text in TEXTS:
        ids = made.encode(text).ids
        assert ids == Utf8().encode(text)
        assert made.decode(ids) == text


def test_the_command_writes_what_transformers_asks_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text("words and more words. " * 100)
    Path("bytes.yaml").write_text(BYTES)
    assert main(["train", "bytes.yaml", "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["export", "run", "--to", "huggingface", "--out", "made"]) == 0
    told = capsys.readouterr().out.split()
    assert {*told} == {str(path) for path in Path("made").iterdir()}
    assert {Path(each).name for each in told} >= {"config.json", "modeling.py", "model.py", "tokenizer.json"}
    config = json.loads(Path("made/config.json").read_text())
    assert (config["vocab_size"], config["max_position_embeddings"]) == (256, 32)
    assert json.loads(Path("made/generation_config.json").read_text())["eos_token_id"] == 255


@pytest.fixture(scope="module")
def transformers(tmp_path_factory):
    package = pytest.importorskip("transformers")
    patched = pytest.MonkeyPatch()
    # where it copies the code of models to, and imports it from
    modules = str(tmp_path_factory.mktemp("modules"))
    patched.setattr(package.dynamic_module_utils, "HF_MODULES_CACHE", modules)
    yield package
    patched.undo()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "dreamer-sequential", "huginn", "deepseek-like", "hyperloop"])
def test_transformers_computes_and_generates_the_same(name, tmp_path, transformers):
    model = composer.compile(shortened(composer.load(ROOT / f"specs/family/{name}.yaml"), 16)).eval()
    folder = tmp_path / name
    write_huggingface(model, folder)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    tokens = tokens_for(model.spec, 2, 6)
    with torch.no_grad():
        wanted, got = model(tokens), loaded(tokens).logits
    assert (wanted - got).abs().max() < 1e-5 * wanted.abs().max()
    made = loaded.generate(tokens, max_new_tokens=6, do_sample=False)
    assert torch.equal(made, model.generate(tokens, 6, temperature=0))
    loaded.train()(tokens, labels=tokens).loss.backward()
    assert all(each.grad is not None for each in loaded.parameters())
    with pytest.raises(ValueError, match="padded at their end"):
        loaded(tokens, attention_mask=torch.tensor([[0, 1, 1, 1, 1, 1]] * 2))


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_text_comes_with_its_tokenizer(tmp_path, monkeypatch, transformers):
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text("words")
    Path("bytes.yaml").write_text(BYTES)
    model = composer.compile("bytes.yaml").eval()
    write_huggingface(model, tmp_path / "bytes")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "bytes")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "bytes", trust_remote_code=True)
    given = tokenizer("Grüße", return_tensors="pt")
    assert given.input_ids[0].tolist() == [*"Grüße".encode()]
    assert tokenizer.decode(given.input_ids[0]) == "Grüße"
    made = loaded.generate(**given, max_new_tokens=8, do_sample=False)
    assert torch.equal(made, model.generate(given.input_ids, 8, temperature=0, stop=255))
