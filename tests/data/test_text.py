import gzip
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from composer.data.base.corpus import find_sources, read_text
from composer.data.base.errors import DataError
from composer.data.tasks.hop import Hop
from composer.data.tasks.text import Text
from composer.language.load import loads
from composer.testing.tasks import CHECKS
from composer.training.data.datamodule import datamodule

PROSE = "".join(f"line {i} of a déjà vu\n" for i in range(400))


def whole_text(config):
    return read_text(find_sources(config.path, config.glob), config.field)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "prose.txt").write_text(PROSE, encoding="utf-8")
    return str(tmp_path / "prose.txt")


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(folder)


def test_it_conforms(file):
    for check in CHECKS.values():
        check(Text(path=file, length=64))
    assert Text(path=file, length=16).group_names is None
    assert Text(path=file, length=16).bytes_per_token == 1.0


def test_targets_are_the_next_bytes_of_the_text(file):
    for split in ("train", "eval"):
        batch = Text(path=file, length=16).stream(split, 0).batch(2, 9)
        assert np.array_equal(batch.tokens[:, 1:], batch.targets[:, :-1])
        for tokens, targets in zip(batch.tokens, batch.targets, strict=True):
            assert bytes([*tokens.tolist(), int(targets[-1])]) in PROSE.encode()


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.5])
def test_splits_read_disjoint_ranges_that_cover_the_text(tmp_path, fraction):
    # every six bytes of this text are unlike, which tells where a window was cut
    text = "".join(f"{chr(0x4E00 + i)}" for i in range(2000))
    config = Text(path=write(tmp_path, {"text.txt": text}), length=5, eval_fraction=fraction)
    places = {}
    for split in ("train", "eval"):
        batch = config.stream(split, 1).batch(0, 6000)
        rows = np.concatenate([batch.tokens, batch.targets[:, -1:]], axis=1)
        windows = {row.tobytes() for row in rows.astype(np.uint8)}
        starts = [text.encode().index(window) for window in windows]
        places[split] = {place for start in starts for place in range(start, start + 6)}
    boundary = 6000 - round(6000 * fraction)
    assert max(places["train"]) < boundary <= min(places["eval"])
    assert len(places["train"]) > 0.98 * boundary
    assert len(places["eval"]) > 6000 - boundary - 6


def test_training_reaches_every_window_of_its_range(tmp_path):
    stream = Text(path=write(tmp_path, {"text.txt": PROSE[:80]}), length=9, eval_fraction=0.5).stream(
        "train", 0
    )
    rows = stream.batch(0, 2000)
    seen = {
        bytes([*row, last])
        for row, last in zip(rows.tokens.tolist(), rows.targets[:, -1].tolist(), strict=True)
    }
    part = stream.text.tobytes()
    assert seen == {part[i : i + 10] for i in range(len(part) - 9)}


def test_one_window_in_each_split_is_enough_and_a_byte_less_is_not(tmp_path):
    write(tmp_path, {"enough.txt": "a" * 20, "less.txt": "a" * 19})
    enough, less = (
        Text(path=str(tmp_path / name), length=9, eval_fraction=0.5) for name in ("enough.txt", "less.txt")
    )
    for split in ("train", "eval"):
        assert enough.stream(split, 0).batch(1, 3).targets.tolist() == [[97] * 9] * 3
    with pytest.raises(DataError, match=r"19 bytes leave 9 for train|19 bytes leave 9 for eval"):
        [less.stream(split, 0) for split in ("train", "eval")]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 89, 90, 500])
def test_eval_takes_each_window_once_before_any_again_and_spreads_its_beginning(tmp_path, count):
    length = 8
    text = "".join(map(chr, np.random.default_rng(0).integers(97, 123, length * (count + 1) * 2)))
    config = Text(
        path=write(tmp_path, {"text.txt": text[: 2 * (length * count + 1)]}), length=length, eval_fraction=0.5
    )
    stream = config.stream("eval", 0)
    assert stream.distinct == count
    half = text[: 2 * (length * count + 1)][length * count + 1 :].encode()
    starts = [half.index(bytes(row.tolist())) // length for row in stream.batch(0, count).tokens]
    assert sorted(starts) == list(range(count))
    some = sorted(starts[: max(1, count // 5)])
    gaps = np.diff([0, *some, count])
    assert gaps.max() <= 4 * count / len(some)
    wrapped = stream.batch(1, count).tokens
    assert np.array_equal(wrapped, stream.batch(0, count).tokens)


def test_reads_a_folder_by_sorted_name_with_a_separator_that_text_cannot_hold(tmp_path):
    files = {"b.txt": "beta é", "a/z.txt.gz": gzip.compress("zéta".encode()), "a.txt": "alpha", "c.md": "no"}
    path = write(tmp_path, files | {"empty.txt": "", ".hidden.txt": "secret", ".git/x.txt": "secret"})
    config = Text(path=path, glob="**/*.txt*", length=3)
    assert whole_text(config).split(b"\xff") == [b"alpha", "zéta".encode(), "beta é".encode()]
    assert b"no" in whole_text(Text(path=path, length=3))


def test_reads_one_field_of_json_lines(tmp_path):
    lines = "".join(json.dumps({"q": f"é{i}\n", "a": "x"}) + "\n\n" for i in range(3))
    path = write(tmp_path, {"rows.jsonl.gz": gzip.compress(lines.encode())})
    for at in (path, path + "/rows.jsonl.gz"):
        documents = whole_text(Text(path=at, length=3, field="q")).split(b"\xff")
        assert [document.decode() for document in documents] == ["é0\n", "é1\n", "é2\n"]


def test_a_relative_path_starts_at_the_current_directory(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert whole_text(Text(path="prose.txt", length=8)) == PROSE.encode()


def test_a_changed_file_is_read_anew(file, tmp_path):
    config = Text(path=file, length=8)
    assert whole_text(config) is whole_text(config)
    write(tmp_path, {"prose.txt": "something else"})
    assert whole_text(config) == b"something else"


@pytest.mark.parametrize(
    ("files", "fields", "message"),
    [
        ({}, {"path": "nothing.txt"}, r"file not found: nothing\.txt \(relative to "),
        ({}, {}, r"no file in the folder matches '\*\*/\*'"),
        ({"a.md": PROSE}, {"glob": "*.txt"}, r"no file in the folder matches '\*\.txt'"),
        ({"a.md": PROSE}, {"glob": "/etc/*"}, "not a pattern below the folder"),
        ({"a.md": PROSE}, {"path": "a.md", "glob": "*"}, "is a file, but `glob`"),
        ({"a.txt": ""}, {"path": "a.txt"}, r"a\.txt: no text"),
        ({"a.txt": "", "b.txt": ""}, {}, r"a\.txt and all others: no text"),
        ({"a.txt": b"abc\xff\xfe"}, {}, r"a\.txt: not UTF-8: byte 0xff at offset 3"),
        ({"a.gz": "plain"}, {}, r"a\.gz: named \.gz, but not a whole gzip file"),
        ({"a.gz": gzip.compress(PROSE.encode(), mtime=0)[:-20]}, {}, r"a\.gz: named \.gz, but not a whole"),
        ({"a.txt": PROSE[:200]}, {}, r"leave 11 for eval.*length \+ 1 = 17"),
        ({"a.txt": PROSE[:200]}, {"eval_fraction": 0.95}, r"leave 11 for train.*length \+ 1 = 17"),
        ({"a.txt": '{"t": "x"}\n{"t": }'}, {"field": "t"}, r"a\.txt:2: not a line of JSON"),
        (
            {"a.txt": '{"t": "x"}\n\n{"u": 1}'},
            {"field": "t"},
            r"a\.txt:3: .*the field 't', got an object with u",
        ),
        ({"a.txt": "[1]"}, {"field": "t"}, r"a\.txt:1: .*the field 't', got list"),
        ({"a.txt": '{"t": 3}'}, {"field": "t"}, r"a\.txt:1: expected a string in the field 't', got int"),
        ({"a.txt": '{"t": "\\ud800"}'}, {"field": "t"}, r"a\.txt:1: the field 't' is no Unicode text"),
    ],
)
def test_bad_data_is_refused_by_place_and_reason(tmp_path, monkeypatch, files, fields, message):
    monkeypatch.chdir(write(tmp_path, files))
    config = Text(**{"path": ".", "length": 16, **fields})
    with pytest.raises(DataError, match=message):
        [config.stream(split, 0) for split in ("train", "eval")]


@pytest.mark.parametrize("method", ["read_bytes", "iterdir"])
def test_what_may_not_be_read_is_refused(file, tmp_path, monkeypatch, method):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    config = Text(path=file if method == "read_bytes" else str(tmp_path), length=16)
    monkeypatch.setattr(f"pathlib.Path.{method}", refuse)
    with pytest.raises(DataError, match=f"permission denied: {config.path}"):
        config.stream("train", 0)


@pytest.mark.parametrize(
    "bad", [{"eval_fraction": 0.0}, {"eval_fraction": 1.0}, {"path": ""}, {"suffix": ".py"}]
)
def test_refuses_fields_out_of_range(bad):
    with pytest.raises(ValidationError):
        Text(**{"path": "x", "length": 16, **bad})


def test_problems_name_what_does_not_fit():
    results = list(Text(path="x", length=16).problems(SimpleNamespace(vocab=255, context=15)))
    assert [problem.key for problem in results] == ["length", "task"]
    assert "256" in results[1].hint


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_evaluation_scores_each_window_of_a_short_split_once(tmp_path, accumulate, ranks):
    text = "".join(map(chr, np.random.default_rng(0).integers(97, 123, 2 * (16 * 21 + 1))))
    data = {"task": "text", "path": write(tmp_path, {"text.txt": text}), "length": 16, "eval_fraction": 0.5}
    train = {"data": data, "tokens": 1, "batch_tokens": 16 * 8, "accumulate": accumulate}
    spec = load_text(train | {"eval": {"tokens": 16 * 64}})
    module = datamodule(spec)
    assert module.eval_sequences == 21
    seen = []
    for rank in range(ranks):
        module.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)
        batches = [*module.val_dataloader()]
        assert len(batches) == len(module.val_dataloader()) == -(-21 * accumulate // 8)
        for batch in batches:
            assert len(batch["tokens"]) == 8 // accumulate // ranks
            scored = (batch["targets"] != -100).all(1)
            assert (batch["targets"] != -100).any(1).equal(scored)
            seen += [row.numpy().tobytes() for row in batch["targets"][scored]]
    assert len(seen) == len(set(seen)) == 21
    assert datamodule(load_text(train | {"eval": {"tokens": 16 * 9}})).eval_sequences == 16


def load_text(train):
    model = {"width": 8, "vocab": 256, "context": 16}
    block, stages = {"type": "feed_forward", "hidden": 8}, [{"stack": 1, "step": ["mlp"]}]
    parts = {"schema": 1, "name": "text", "model": model, "blocks": {"mlp": block}, "stages": stages}
    return loads(json.dumps(parts | {"train": train}))


def test_a_fingerprint_is_of_the_unpacked_content_and_reads_each_state_of_a_file_once(tmp_path, monkeypatch):
    path = write(tmp_path / "a", {"one.txt": "first", "two.txt.gz": gzip.compress(b"second")})
    got = Text(path=path, length=3).fingerprint()
    assert [(mark.file, mark.size) for mark in got.files] == [("one.txt", 5), ("two.txt.gz", 6)]
    assert got.files[0].sha256 == hashlib.sha256(b"first").hexdigest()
    other = write(tmp_path / "b", {"1.txt": "first", "2.txt": "second"})
    again = Text(path=other, length=3).fingerprint()
    assert again.digest == got.digest
    assert got.changes(again) == []
    write(tmp_path / "b", {"2.txt": "Second"})
    assert Text(path=other, length=3).fingerprint().digest != got.digest
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: pytest.fail(f"read {path} again"))
    assert Text(path=path, length=3).fingerprint() == got


def test_a_task_without_files_has_no_fingerprint():
    assert Hop(length=16).fingerprint() is None
