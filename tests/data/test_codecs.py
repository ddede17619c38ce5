"""Text as the tokens of tokenized data, by the tokenizer that stands beside them."""

import json

import pytest
from token_folders import write_tokens

from composer.data.base.codec import Utf8
from composer.data.base.errors import DataError
from composer.data.tasks.tokens import Tokens
from composer.data.tokens.manifest import BYTES, MANIFEST


def codec(folder, tokenizer):
    documents = {"train": [[1, 2, 3] * 20], "eval": [[1, 2, 3] * 20]}
    path = write_tokens(folder, documents, vocab=300, end=299)
    manifest = json.loads((folder / MANIFEST).read_text())
    digest = "0" * 64 if tokenizer not in ("", BYTES) else ""
    (folder / MANIFEST).write_text(
        json.dumps({**manifest, "tokenizer": tokenizer, "tokenizer_sha256": digest})
    )
    return Tokens(path=path, length=8).codec()


def test_bytes_and_unknown_tokenizers_need_no_file(tmp_path):
    text = codec(tmp_path / "bytes", BYTES)
    assert (text.end, text.encode("é"), text.decode([195, 169, 299])) == (299, [195, 169], "é")
    numbers = codec(tmp_path / "numbers", "")
    assert (numbers.end, numbers.encode("3, 14"), numbers.decode([3, 14])) == (299, [3, 14], " 3 14")
    with pytest.raises(DataError, match="tokens as numbers"):
        numbers.encode("words")


def test_a_tokenizer_of_the_folder_is_used(tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "tokenizer.json").write_text(json.dumps(Utf8().tokenizer()))
    text = codec(tmp_path / "made", "tokenizer.json")
    assert text.encode("Grüße 🙂") == [*"Grüße 🙂".encode()]
    assert text.decode([*"Grüße".encode()]) == "Grüße"
    assert text.tokenizer() == Utf8().tokenizer()


def test_a_tokenizer_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json: (not a tokenizer|a tokenizer needs the package)"):
        codec(tmp_path / "made", "tokenizer.json")
