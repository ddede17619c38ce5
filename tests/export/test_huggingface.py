"""transformers loads the folder, and computes and generates the same; its tokenizer is ours."""

import json
from pathlib import Path

import pytest
import torch
from cases import DELTA, LATENT, SEQ, tree
from models import shortened, tokens_for
from strategies import make

import composer
from blocks.primitives.operations import Sum
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
    output = capsys.readouterr().out.split()
    assert {*output} == {str(path) for path in Path("made").iterdir()}
    assert {Path(each).name for each in output} >= {
        "config.json",
        "modeling.py",
        "model.py",
        "tokenizer.json",
    }
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


def cache_of(output):
    """What transformers 5.24 calls `cache`, and earlier releases `past_key_values`."""
    return output.cache if "cache" in output else output.past_key_values


NAMES = ["llama", "dreamer-sequential", "huginn", "deepseek-like", "hyperloop", "mixture-of-recursions"]


def exported(spec, folder, transformers):
    model = composer.compile(shortened(spec, 16)).eval()
    write_huggingface(model, folder)
    return model, transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_transformers_computes_and_generates_the_same(name, tmp_path, transformers):
    model, loaded = exported(composer.load(ROOT / f"specs/family/{name}.yaml"), tmp_path / name, transformers)
    assert loaded.supports_cache
    tokens = tokens_for(model.spec, 2, 6)
    with torch.no_grad():
        wanted, got = model(tokens), loaded(tokens).logits
    assert (wanted - got).abs().max() < 1e-5 * wanted.abs().max()
    ours = model.generate(tokens, 6, temperature=0)
    for options in ({}, {"use_cache": False}):
        assert torch.equal(loaded.generate(tokens, max_new_tokens=6, do_sample=False, **options), ours)
    # token by token, each beside what is kept
    with torch.no_grad():
        first = loaded(tokens[:, :3], use_cache=True)
        made, cache = [first.logits], cache_of(first)
        made += [loaded(each, past_key_values=cache).logits for each in (tokens[:, 3:5], tokens[:, 5:])]
    assert cache.get_seq_length() == 6
    assert (torch.cat(made, 1) - wanted).abs().max() < 1e-5 * wanted.abs().max()
    loaded.train()(tokens, labels=tokens).loss.backward()
    assert all(each.grad is not None for each in loaded.parameters())


PADDED = {
    **dict.fromkeys(NAMES),
    "cotformer": None,
    "windows": {"seq": {**SEQ, "window": 3, "sinks": 1}},
    "caps": {"seq": {**SEQ, "window": 3, "soft_cap": 0.5}},
    "joint": {"seq": {**SEQ, "depth": "joint", "window": 2}},
    "positions": {"seq": {**SEQ, "rope": False}},
    "latent": {"seq": LATENT},
    "delta": {"seq": DELTA},
    "documents": {"seq": {**SEQ, "window": 3}},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PADDED)
def test_rows_padded_at_their_beginning_are_continued_as_each_alone(name, tmp_path, transformers):
    others = {"documents": {"apart": 1}} if name == "documents" else {}
    spec = tree(PADDED[name] or {}, {"recur": 3, "step": ["seq"]}, positions="learned", **others)
    spec = make(spec) if PADDED[name] else composer.load(ROOT / f"specs/family/{name}.yaml")
    model, loaded = exported(spec, tmp_path / name, transformers)
    tokens, lengths = tokens_for(model.spec, 3, 5), (5, 2, 3)
    new = min(model.spec.model.context - 5, 6)
    rows = [row[:length] for row, length in zip(tokens, lengths, strict=True)]
    padded = torch.stack([torch.cat((row.new_full((5 - len(row),), 7), row)) for row in rows])
    mask = torch.stack([(torch.arange(5) >= 5 - length).long() for length in lengths])
    ours = model.generate(rows, new, temperature=0)
    for options in ({}, {"use_cache": False}):
        made = loaded.generate(
            padded, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=7, **options
        )
        for got, row, length in zip(made, ours, lengths, strict=True):
            assert torch.equal(got[5 - length :], row)
    # losses are those of the rows without padding
    with torch.no_grad():
        labels = padded.masked_fill(mask == 0, -100)
        result = loaded(padded, attention_mask=mask, labels=labels)
        for each, row, length in zip(result.logits, rows, lengths, strict=True):
            assert (each[5 - length :] - model(row[None])[0]).abs().max() < 1e-4
    with pytest.raises(ValueError, match="padding_side='left'"):
        loaded(tokens, attention_mask=mask.flip(1), use_cache=True)
    with pytest.raises(ValueError, match="padded at their beginning or end"):
        loaded(tokens, attention_mask=torch.tensor([[1, 0, 1, 1, 1]] * 3))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["mixture-of-recursions-token", "hybrid"])
def test_beams_and_a_cache_that_is_given_go_on_where_they_were(name, tmp_path, transformers):
    spec = composer.load(ROOT / f"specs/family/{name}.yaml")
    model, loaded = exported(spec, tmp_path / f"beams-{name}", transformers)
    tokens, how = tokens_for(model.spec, 2, 4), {"do_sample": False, "num_beams": 3, "max_new_tokens": 6}
    uncached = loaded.generate(tokens, use_cache=False, **how)
    assert torch.equal(loaded.generate(tokens, **how), uncached)
    cache = cache_of(loaded(tokens[:, :2], use_cache=True))
    word = "cache" if "cache" in loaded(tokens, use_cache=True) else "past_key_values"
    made = loaded.generate(tokens, **{word: cache}, max_new_tokens=6, do_sample=False)
    assert torch.equal(made, model.generate(tokens, 6, temperature=0))
    small = type(cache)(5)
    with pytest.raises(ValueError, match="at most 5 tokens"):
        loaded.generate(tokens, **{word: small}, max_new_tokens=6, do_sample=False)


@pytest.mark.filterwarnings("ignore")
def test_what_the_model_does_not_take_is_refused(tmp_path, transformers):
    model, loaded = exported(
        make(tree({"seq": SEQ}, {"recur": 2, "step": ["seq"]})), tmp_path / "asked", transformers
    )
    tokens = tokens_for(model.spec, 2, 4)
    for asked in ({"output_attentions": True}, {"position_ids": tokens}):
        with pytest.raises(ValueError, match=f"{next(iter(asked))}: expected none"):
            loaded(tokens, **asked)
    # a forward pass appends, as that of any model of transformers; generate takes what the cache has not seen
    full = cache_of(loaded(tokens, use_cache=True))
    for given in (tokens, tokens[:, :2]):
        with pytest.raises((ValueError, IndexError), match=r"expected fewer than|out of bounds"):
            loaded.generate(given, past_key_values=full, max_new_tokens=2, do_sample=False)
    assert full.get_seq_length() == 4
    with torch.no_grad():
        twice = loaded(tokens, past_key_values=full)
        assert cache_of(twice).get_seq_length() == 8
        wanted = model(torch.cat((tokens, tokens), 1))[:, 4:]
    assert (twice.logits - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert not loaded.accepts_loss_kwargs


def test_releases_that_are_too_old_are_refused_when_the_model_is_loaded(tmp_path, monkeypatch, transformers):
    model = composer.compile(make(tree({"seq": SEQ}, {"recur": 2, "step": ["seq"]})))
    write_huggingface(model, tmp_path / "old")
    monkeypatch.setattr(transformers, "__version__", "4.51.3")
    with pytest.raises(ImportError, match=r"needs transformers 4\.55\.4 or later, got 4\.51\.3"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "old", trust_remote_code=True)
    assert "transformers 4.55.4 or later" in (tmp_path / "old" / "README.md").read_text()


def test_what_does_not_run_token_by_token_is_exported_without_a_cache(tmp_path, monkeypatch, transformers):
    monkeypatch.setattr(Sum, "decoding", "")
    spec = composer.load(ROOT / "specs/family/llama.yaml")
    model, loaded = exported(spec, tmp_path / "plain", transformers)
    assert not loaded.supports_cache
    source = (tmp_path / "plain" / "modeling.py").read_text()
    assert "supports_cache = False  # stages.0." in source
    assert "class Past" not in (tmp_path / "plain" / "model.py").read_text()
    tokens = tokens_for(model.spec, 2, 4)
    made = loaded.generate(tokens, max_new_tokens=3, do_sample=False)
    monkeypatch.undo()
    assert torch.equal(made, composer.compile(model.spec).eval().generate(tokens, 3, temperature=0))


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
