"""Builds that need packages of the extra `data`: tokenizers, Parquet and Arrow, zst, the hub."""

from __future__ import annotations

import hashlib
import sys
from types import SimpleNamespace

import pytest

from composer.cli.main import main
from composer.data.base.errors import DataError
from composer.data.building.base.source import Fields, Options
from composer.data.building.build import Sources, build
from composer.data.building.decode import decode
from composer.data.tasks.tokens import Tokens
from composer.data.tokens.shards import open_split

NOTES = [f"note {i} of a déjà vu <|endoftext|> {i * 7919 % 10007}" for i in range(300)]
SKIPPED = "{} is not installed; the extra `data` has it"


def extra(name):
    return pytest.importorskip(name, reason=SKIPPED.format(name.partition(".")[0]))


def texts(manifest):
    results = []
    for split in manifest.splits:
        for shard in open_split(manifest, split):
            begin = 0
            for end in shard.ends.tolist():
                results.append(decode(manifest, shard.tokens[begin : end - 1].tolist()))
                begin = end
    return sorted(results)


def test_a_tokenizer_is_trained_kept_with_the_data_and_reversible(tmp_path, capsys):
    extra("tokenizers")
    (tmp_path / "notes.txt").write_text("\n".join(NOTES), encoding="utf-8")
    source, file, out = (str(tmp_path / name) for name in ("notes.txt", "made/tok.json", "out"))
    assert main(["data", "tokenizer", source, "--vocab", "300", "--out", file]) == 0
    assert "300 tokens" in capsys.readouterr().out
    assert main(["data", "tokenizer", source, "--vocab", "300", "--out", file]) == 1
    assert main(["data", "tokenizer", source, "--vocab", "200", "--out", file, "--force"]) == 1
    made = build(Sources([source]), tmp_path / "out", Options(tokenizer=file, documents="line"))
    content = (tmp_path / "made/tok.json").read_bytes()
    assert (tmp_path / "out/tokenizer.json").read_bytes() == content
    assert made.tokenizer_sha256 == hashlib.sha256(content).hexdigest()
    assert (made.vocab, made.dtype, made.end_of_document) == (300, "uint16", 0)
    # the name of a special token in a text is text
    assert texts(made) == sorted(NOTES)
    config = Tokens(path=out, length=8)
    held = made.split("eval")
    assert config.bytes_per_token == held.scored_bytes / held.tokens > 1.2
    (tmp_path / "out/tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"file not found: .*tokenizer\.json"):
        config.fingerprint()


def test_a_tokenizer_of_little_text_says_so_and_of_none_is_not_made(tmp_path, capsys):
    extra("tokenizers")
    (tmp_path / "few.txt").write_text("few words")
    (tmp_path / "none.txt").write_text("")
    few, none, file = (str(tmp_path / name) for name in ("few.txt", "none.txt", "tok.json"))
    assert main(["data", "tokenizer", none, "--out", file]) == 1
    assert "none.txt: no text to train a tokenizer on" in capsys.readouterr().err
    assert not (tmp_path / "tok.json").exists()
    # a folder cannot be replaced by a file
    assert main(["data", "tokenizer", few, "--vocab", "4096", "--out", str(tmp_path), "--force"]) == 1
    assert "expected a file, got a directory" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"few.txt", "none.txt"}
    assert main(["data", "tokenizer", few, "--vocab", "4096", "--out", file]) == 0
    assert "the text has no pairs left for the 4,096 asked for" in capsys.readouterr().out


def test_a_tokenizer_without_a_usual_end_needs_one_by_name(tmp_path):
    tokenizers = extra("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "STOP": 2}, unk_token="b"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.txt").write_text("\n".join("a " * (i + 1) for i in range(200)))
    sources, options = Sources([str(tmp_path / "text")]), {"tokenizer": str(tmp_path), "documents": "line"}
    with pytest.raises(DataError, match=r"has none of .*--end-of-document"):
        build(sources, tmp_path / "out", Options(**options))
    with pytest.raises(DataError, match="has no token 'END'"):
        build(sources, tmp_path / "out", Options(**options, end_of_document="END"))
    result = build(sources, tmp_path / "out", Options(**options, end_of_document="STOP"))
    assert result.end_of_document == 2
    assert result.dtype == "uint8"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"not a tokenizer\.json"):
        build(sources, tmp_path / "out2", Options(**options))


def test_zst_is_unpacked(tmp_path):
    zstandard = extra("zstandard")
    content = "\n".join(NOTES).encode()
    (tmp_path / "notes.txt.zst").write_bytes(zstandard.compress(content))
    scores = build(Sources([str(tmp_path / "notes.txt.zst")]), tmp_path / "out", Options(documents="line"))
    assert texts(scores) == sorted(NOTES)
    # as tools that work in parallel leave it, and appended files
    half = len(content) // 2
    frames = zstandard.compress(content[:half]) + zstandard.compress(b"") + zstandard.compress(content[half:])
    (tmp_path / "frames.txt.zst").write_bytes(frames)
    scores = build(
        Sources([str(tmp_path / "frames.txt.zst")]), tmp_path / "frames", Options(documents="line")
    )
    assert texts(scores) == sorted(NOTES)
    for missing in (1, len(frames) // 3, len(frames) - 5):
        (tmp_path / "cut.txt.zst").write_bytes(frames[:-missing])
        with pytest.raises(DataError, match=r"cut\.txt\.zst: .* the file ends within a frame"):
            build(Sources([str(tmp_path / "cut.txt.zst")]), tmp_path / "cut", Options(documents="line"))
    (tmp_path / "notes.txt.zst").write_bytes(b"no zst")
    with pytest.raises(DataError, match=r"named \.zst, but not a whole file"):
        build(Sources([str(tmp_path / "notes.txt.zst")]), tmp_path / "out2", Options(documents="line"))


def table(pyarrow):
    return pyarrow.table({"number": list(range(300)), "body": NOTES, "answer": [str(i) for i in range(300)]})


def test_rows_of_parquet_are_documents(tmp_path, monkeypatch):
    pyarrow, parquet = extra("pyarrow"), extra("pyarrow.parquet")
    monkeypatch.setattr("composer.data.building.formats.parquet.UNIT_BYTES", 2000)
    parquet.write_table(table(pyarrow), tmp_path / "a.parquet", row_group_size=50)
    source = Sources([str(tmp_path / "a.parquet")])
    result = build(source, tmp_path / "out", Options(fields=Fields("body")))
    assert texts(result) == sorted(NOTES)
    examples = Options(fields=Fields("", "body", "answer"), join="\n")
    result = build(source, tmp_path / "out2", examples)
    assert texts(result) == sorted(f"{note}\n{i}" for i, note in enumerate(NOTES))
    assert sum(split.scored_tokens for split in result.splits.values()) == sum(
        len(str(i)) + 1 for i in range(300)
    )
    with pytest.raises(DataError, match=r"a\.parquet: expected a column 'text', got number, body, answer"):
        build(source, tmp_path / "out3", Options())
    with pytest.raises(DataError, match=r"row 0 \(from 0\): expected a string in .*, got a number"):
        build(source, tmp_path / "out3", Options(fields=Fields("number")))
    rows = [*NOTES[:120], None, *NOTES[120:]]
    parquet.write_table(pyarrow.table({"text": rows}), tmp_path / "null.parquet", row_group_size=50)
    with pytest.raises(DataError, match=r"row 120 \(from 0\): .* field 'text', got null"):
        build(Sources([str(tmp_path / "null.parquet")]), tmp_path / "out3", Options())
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="not a whole Parquet file"):
        build(source, tmp_path / "out4", Options())


def test_a_folder_that_datasets_saved_is_read(tmp_path):
    pyarrow = extra("pyarrow")
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text("{}")
    made = table(pyarrow)
    path = str(folder / "data-00000-of-00001.arrow")
    with pyarrow.OSFile(path, "wb") as sink, pyarrow.ipc.new_stream(sink, made.schema) as stream:
        stream.write_table(made, max_chunksize=70)
    scores = build(Sources([str(folder)]), tmp_path / "out", Options(fields=Fields("body")))
    assert texts(scores) == sorted(NOTES)


def test_the_hub_gives_one_config_and_split(tmp_path, monkeypatch):
    pyarrow, parquet = extra("pyarrow"), extra("pyarrow.parquet")
    for name in ("default/train", "default/test", "other/train"):
        (tmp_path / "hub" / name).mkdir(parents=True)
        parquet.write_table(table(pyarrow), tmp_path / "hub" / name / "0000.parquet")
    asked = []

    def snapshot_download(name, **options):
        asked.append((name, options["repo_type"], options["revision"]))
        return str(tmp_path / "hub")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    options = Options(fields=Fields("body"), eval_fraction=0.0)
    with pytest.raises(
        DataError, match=r"has the configs default and other; choose one: hf:some/data/default"
    ):
        build(Sources(["hf:some/data"]), tmp_path / "out", options)
    result = build(Sources(["hf:some/data/default"]), tmp_path / "out", options)
    assert texts(result) == sorted(NOTES)
    assert asked[0] == ("some/data", "dataset", "refs/convert/parquet")
    with pytest.raises(DataError, match="no Parquet files of default with the split dev"):
        build(Sources(["hf:some/data/default/dev"]), tmp_path / "out2", options)


@pytest.mark.parametrize(
    ("package", "name"),
    [("tokenizers", "a.txt"), ("zstandard", "a.txt.zst"), ("pyarrow.parquet", "a.parquet")],
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, package, name):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_bytes(b"PAR1" if name == "a.parquet" else b"text")
    (tmp_path / "tokenizer.json").write_text("{}")
    tokenizer = str(tmp_path) if package == "tokenizers" else "bytes"
    with pytest.raises(DataError, match=r"pip install 'attention-composer\[data\]'"):
        build(Sources([str(tmp_path / name)]), tmp_path / "out", Options(tokenizer=tokenizer))
