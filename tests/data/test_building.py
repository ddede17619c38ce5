"""`composer data build`: documents in, tokens out, split by content, whatever interrupts it."""

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import composer.data.building.build as build_module
from composer.cli.main import main
from composer.data.base.errors import DataError
from composer.data.building.base.source import Fields, Options
from composer.data.building.build import WORK, Sources, build
from composer.data.building.decode import decode
from composer.data.building.parts import make_part
from composer.data.tasks.tokens import Tokens
from composer.data.tokens.inspect import verify_hashes
from composer.data.tokens.manifest import read_manifest
from composer.data.tokens.shards import open_split

ROOT = Path(__file__).parents[2]
NOTES = [f"note {i} of a déjà vu, {i * 7919 % 10007} in all" for i in range(200)]


def documents(manifest, split):
    """The documents of a split as text, without their ends; and the text that is scored."""
    whole, scored = [], []
    for shard in open_split(manifest, split):
        begin = 0
        for end, first in zip(shard.ends.tolist(), shard.scored_from.tolist(), strict=True):
            whole.append(decode(manifest, shard.tokens[begin:end].tolist()).rstrip("\u241e"))
            scored.append(decode(manifest, shard.tokens[first:end].tolist()).rstrip("\u241e"))
            begin = end
    return whole, scored


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.fixture
def notes(tmp_path):
    return write(tmp_path / "notes.txt", "\n".join(NOTES) + "\n")


def made(tmp_path, *sources, held_out=(), **options):
    return build(Sources(sources, held_out), tmp_path / "out", Options(**options))


def test_documents_come_out_in_order_and_each_in_one_split(tmp_path, notes):
    manifest = made(tmp_path, notes, documents="line", eval_fraction=0.2)
    train, eval_ = (documents(manifest, split)[0] for split in ("train", "eval"))
    assert [note for note in NOTES if note in set(train)] == train
    assert sorted(train + eval_) == sorted(NOTES)
    assert 20 < len(eval_) < 60
    sizes = sum(len(note.encode()) + 1 for note in train)
    assert (manifest.split("train").tokens, manifest.split("train").scored_bytes) == (sizes, sizes)
    assert Tokens(path=str(tmp_path / "out"), length=8).bytes_per_token == 1.0
    verify_hashes(manifest)
    assert not (tmp_path / "out" / WORK).exists()


def test_what_is_held_out_depends_on_a_document_alone(tmp_path, notes):
    # so it is the same after deduplication, in other orders, and with other documents around
    one = made(tmp_path, notes, documents="line", eval_fraction=0.2)
    held = set(documents(one, "eval")[0])
    (tmp_path / "more").mkdir()
    more = [*reversed(NOTES), *NOTES, *(f"other {i}" for i in range(50))]
    write(
        tmp_path / "more/a.jsonl.gz", gzip.compress("\n".join(json.dumps({"text": t}) for t in more).encode())
    )
    for dedupe in (False, True):
        two = made(tmp_path / "more", str(tmp_path / "more/a.jsonl.gz"), eval_fraction=0.2, dedupe=dedupe)
        train, eval_ = (documents(two, split)[0] for split in ("train", "eval"))
        assert held <= set(eval_)
        assert set(train).isdisjoint(eval_)
        assert len(train) + len(eval_) == (250 if dedupe else 450)
        assert two.report["dropped_repeated"] == (200 if dedupe else 0)
        for file in (tmp_path / "more/out").iterdir():
            file.unlink()


def test_a_held_out_file_is_a_set_by_name_and_its_documents_are_in_no_other(tmp_path, notes):
    test = write(tmp_path / "test.txt", "\n".join([*NOTES[50:60], "only here"]))
    manifest = made(tmp_path, notes, held_out=[("test", test)], documents="line", eval_fraction=0.2)
    by_name = {split: documents(manifest, split)[0] for split in manifest.splits}
    assert by_name["test"] == [*NOTES[50:60], "only here"]
    assert not set(by_name["test"]) & {*by_name["train"], *by_name["eval"]}
    assert manifest.report["dropped_held_out"] == 10
    assert len(by_name["train"]) + len(by_name["eval"]) == 190


def test_only_targets_of_examples_are_scored(tmp_path):
    rows = [{"q": f"{i} + 1?", "a": f"{i + 1} é"} for i in range(100)]
    source = write(tmp_path / "rows.jsonl", "\n\n".join(map(json.dumps, rows)))
    manifest = made(tmp_path, source, fields=Fields("", "q", "a"), join=" -> ", eval_fraction=0.3)
    results = [documents(manifest, split) for split in ("train", "eval")]
    whole, scored = ([*results[0][i], *results[1][i]] for i in range(2))
    assert sorted(whole) == sorted(f"{row['q']} -> {row['a']}" for row in rows)
    assert sorted(scored) == sorted(row["a"] for row in rows)
    batch = Tokens(path=str(tmp_path / "out"), length=32, documents="apart").stream("train", 0).batch(0, 8)
    for targets in batch.targets:
        assert decode(manifest, targets[targets != -100].tolist()).rstrip("\u241e") in scored
    sizes = sum(len(row["a"].encode()) + 1 for row in rows)
    assert sum(split.scored_bytes for split in manifest.splits.values()) == sizes


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_large_file_is_cut_at_ends_of_lines_and_nothing_is_lost(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("composer.data.building.base.files.UNIT_BYTES", 300_000)
    text = "".join(f"line {i}, déjà vu\n" for i in range(60_000)) + "é" * 200_000
    content = text.encode()
    source = write(tmp_path / f"large.txt{suffix}", gzip.compress(content, 1) if suffix else content)
    manifest = made(tmp_path, source, eval_fraction=0.0)
    result, _ = documents(manifest, "train")
    assert "".join(result) == text
    assert 60 < len(result) < 100
    assert all(part.endswith("\n") for part in result[:-8])
    small = write(
        tmp_path / f"small.txt{suffix}", gzip.compress(content[:9000]) if suffix else content[:9000]
    )
    manifest = build(Sources([small]), tmp_path / "small", Options(eval_fraction=0.0))
    assert manifest.split("train").documents == 1


def test_paragraphs_end_at_blank_lines_wherever_a_unit_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("composer.data.building.base.files.UNIT_BYTES", 100)
    wanted = [f"paragraph {i}\n" + "its text\n" * (i % 5) for i in range(100)]
    source = write(tmp_path / "text.txt", "\n\n".join(wanted))
    manifest = made(tmp_path, source, documents="paragraph", eval_fraction=0.0)
    assert documents(manifest, "train")[0] == wanted


def test_workers_and_interruptions_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("composer.data.building.base.files.UNIT_BYTES", 2000)
    source = write(tmp_path / "notes.txt", "\n".join(NOTES) + "\n")
    options = Options(documents="line", dedupe=True)
    whole = build(Sources([source]), tmp_path / "whole", options)
    made_parts = []

    def stopping(*args):
        if len(made_parts) == 2:
            raise KeyboardInterrupt
        made_parts.append(args[1])
        make_part(*args)

    monkeypatch.setattr("composer.data.building.build.make_part", stopping)
    with pytest.raises(KeyboardInterrupt):
        build(Sources([source]), tmp_path / "again", options)
    monkeypatch.setattr("composer.data.building.build.make_part", make_part)
    with pytest.raises(DataError, match="its build is not finished; give the same"):
        read_manifest(str(tmp_path / "again"))
    with pytest.raises(DataError, match="unfinished build of other sources or options"):
        build(Sources([source]), tmp_path / "again", Options(dedupe=True))
    begun = []
    again = build(Sources([source]), tmp_path / "again", options, workers=2, report=begun.append)
    assert begun[0].done > 3000
    assert begun[-1].done == begun[-1].total == os.path.getsize(source)
    for name in [path.name for path in (tmp_path / "whole").iterdir()]:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert again.fingerprint() == whole.fingerprint()


def test_a_killed_build_goes_on(tmp_path):
    source = write(
        tmp_path / "rows.jsonl",
        "".join(json.dumps({"text": f"{i} word " * 300}) + "\n" for i in range(12_000)),
    )
    command = [sys.executable, "-m", "composer", "data", "build", source, "--out", str(tmp_path / "out")]
    running = subprocess.Popen([*command, "--workers", "2"], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 100
        while not list((tmp_path / "out").glob(".build/part-*.tmp/tokens")) and time.monotonic() < limit:
            time.sleep(0.02)
        assert running.poll() is None
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait(60)
    assert not (tmp_path / "out/manifest.json").exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    scores = read_manifest(str(tmp_path / "out"))
    assert sum(split.documents for split in scores.splits.values()) == 12_000


def test_data_that_are_there_are_replaced_by_force_only(tmp_path, notes):
    made(tmp_path, notes, documents="line")
    with pytest.raises(
        DataError, match="has data already; choose another --out, or replace them with --force"
    ):
        made(tmp_path, notes, documents="line")
    other = build(
        Sources([notes]), tmp_path / "out", Options(documents="line", eval_fraction=0.5), force=True
    )
    assert other.split("eval").documents > 50


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", b"abc\xff", {}, r"a\.txt, line 1, byte 3: not UTF-8: 0xff; convert the file, or leave"),
        ("a.txt", b"abc\xe9", {}, r"a\.txt, line 1, byte 3: not UTF-8: 0xe9"),
        ("a.txt", "é\n\n".encode() * 3 + b"\xff", {"documents": "line"}, r"line 7, byte 12: not UTF-8: 0xff"),
        ("a.txt.gz", gzip.compress(b"abc\n\xff", mtime=0), {}, r"line 2, byte 4: not UTF-8: 0xff"),
        ("a.txt.gz", gzip.compress(b"whole\n" * 99, mtime=0)[:-9], {}, r"named \.gz, but not a whole file"),
        ("a.gz", "plain", {}, r"a\.gz: named \.gz, but not a whole file"),
        ("a.jsonl", '{"text": "x"}\n{"text": }', {}, r"l, line 2, byte 14: not a line of JSON: .* column 10"),
        ("a.jsonl", b'{"text": "\xff"}', {}, r"l, line 1, byte 0: not UTF-8: 0xff at column 11"),
        ("a.jsonl", "[1]", {}, "expected an object with the field 'text', got a list"),
        ("a.jsonl", '{"body": "x"}', {}, "the field 'text', got an object with body; name others"),
        ("a.jsonl", '{"text": 3}', {}, "expected a string in the field 'text', got a number"),
        ("a.jsonl", '{"text": null}', {}, "expected a string in the field 'text', got null"),
        ("a.jsonl", '{"text": "\\ud800"}', {}, "the field 'text' is no Unicode text"),
        ("a.txt", "", {}, "no document is left to train on"),
        ("a.txt", "short", {}, r"none of the 1 documents fell into eval, .* raise --eval-fraction"),
        ("a.txt", "short", {"end_of_document": "</s>"}, "--end-of-document: bytes have one already"),
        ("a.npy", b"\0\0\1\0", {}, "without a header, as OLMo-core writes; give --dtype"),
        ("a.bin", b"\0\0\1", {}, r"a\.bin: 3 bytes of tokens are not whole tokens of uint16"),
        ("a.bin", b"\0\0", {"end_of_document": "x"}, "expected the number of a token"),
        ("index.json", '{"chunks": []}', {}, "not a whole index of litdata"),
    ],
)  # fmt: skip
def test_bad_sources_are_refused_by_place_and_reason(tmp_path, name, content, options, message):
    source = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        made(tmp_path, source, **options)
    # a part that was read may be kept, and is in nobody's way
    assert not [path for path in tmp_path.glob("out/*") if path.name != WORK]
    other = write(tmp_path / "other.txt", "\n".join(NOTES))
    assert made(tmp_path, other, documents="line").split("train").documents
    assert not (tmp_path / "out" / WORK).exists()


def test_a_missing_source_is_refused_and_a_name_of_the_hub_hinted_at(tmp_path):
    with pytest.raises(DataError, match=r"file not found: nobody/nothing .* give hf:nobody/nothing"):
        made(tmp_path, "nobody/nothing")
    with pytest.raises(DataError, match="file not found"):
        made(tmp_path, str(tmp_path / "none.txt"))


def test_what_is_no_file_or_folder_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: expected a file or folder, got a pipe, device or socket"):
        made(tmp_path, str(tmp_path / "pipe"))
    # a variable of the shell that is not set is not the current directory
    with pytest.raises(DataError, match="expected the name of a file or folder, got ''"):
        made(tmp_path, "")


def test_a_build_that_fails_before_its_first_part_leaves_nothing(tmp_path, notes, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("composer.data.building.parts._write", full)
        with pytest.raises(DataError, match=r"out: No space left on device, while writing part 1; give the"):
            made(tmp_path, notes)
    assert not (tmp_path / "out").exists()
    assert made(tmp_path, notes, documents="line").split("train").documents


def test_a_source_that_changed_is_read_again_when_a_build_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("composer.data.building.base.files.UNIT_BYTES", 2000)
    good, bad = write(tmp_path / "a.txt", "\n".join(NOTES)), write(tmp_path / "b.txt", b"\xff")
    sources, options = Sources([good, bad]), Options(documents="line", eval_fraction=0.0)
    with pytest.raises(DataError, match=r"b\.txt, line 1"):
        build(sources, tmp_path / "out", options)
    assert len([*(tmp_path / "out").glob(".build/part-*")]) > 3
    write(tmp_path / "a.txt", "\n".join(NOTES[:30]))
    write(tmp_path / "b.txt", "repaired")
    result = build(sources, tmp_path / "out", options)
    assert documents(result, "train")[0] == [*NOTES[:30], "repaired"]
    with pytest.raises(DataError, match="has data already"):
        build(sources, tmp_path / "out", options)


def test_after_a_refusal_a_corrected_command_takes_the_parts_that_it_needs_too(tmp_path, notes, monkeypatch):
    tokenized = []

    def counted(*args):
        tokenized.append(args[2].path)
        make_part(*args)

    monkeypatch.setattr(build_module, "make_part", counted)
    short = write(tmp_path / "short.txt", "short")
    with pytest.raises(DataError, match="none of the 1 documents fell into eval"):
        made(tmp_path, short)
    result = made(tmp_path, short, held_out=[("eval", notes)], eval_fraction=0.0)
    assert (documents(result, "train")[0], tokenized) == (["short"], [short, notes])
    with pytest.raises(DataError, match="has data already"):
        made(tmp_path, short)


def test_data_to_be_replaced_stay_when_the_build_is_refused(tmp_path, notes):
    before = made(tmp_path, notes, documents="line")
    bad, short = write(tmp_path / "bad.txt", b"\xff"), write(tmp_path / "short.txt", "short")
    for sources in ([notes, bad], [short]):
        with pytest.raises(DataError, match=r"not UTF-8|fell into eval"):
            build(Sources(sources), tmp_path / "out", Options(), force=True)
        assert read_manifest(str(tmp_path / "out")).fingerprint() == before.fingerprint()
        verify_hashes(before)


def test_a_build_that_waited_for_another_does_not_replace_its_data(tmp_path, notes, monkeypatch):
    out = tmp_path / "out"

    def late(path, busy):
        monkeypatch.undo()
        made(tmp_path, notes, documents="line")
        return build_module.locked(path, busy)

    monkeypatch.setattr(build_module, "locked", late)
    path = out / "manifest.json"
    with pytest.raises(DataError, match="has data already, of a build that ended meanwhile"):
        made(tmp_path, notes)
    assert read_manifest(str(out)).split("train").documents > 100
    assert path.exists()
    assert not (out / WORK).exists()


def test_text_and_tokens_do_not_mix(tmp_path, notes):
    tokens = write(tmp_path / "a.bin", b"\1\0" * 10)
    with pytest.raises(DataError, match="sources are either text or tokens, got nanogpt and text"):
        made(tmp_path, notes, tokens)


def test_the_commands_build_and_show(tmp_path, notes, capsys):
    out = str(tmp_path / "out")
    assert main(["data", "build", notes, "--documents", "line", "--out", out, "--workers", "1"]) == 0
    assert "uint8" in capsys.readouterr().out
    assert main(["data", "show", out, "--length", "16", "--documents", "apart", "--verify"]) == 0
    shown = capsys.readouterr().out
    assert "all files have the content" in shown
    assert "padding" in shown
    assert "[" in shown
    os.truncate(tmp_path / "out/eval-00000.tokens", 3)
    assert main(["data", "show", out]) == 1
    assert "build the data again" in capsys.readouterr().err
    assert main(["data", "build", notes, "--fields", "prompt=q", "--out", out]) == 2
    assert main(["data", "build", notes, "--eval", "x", "--out", out]) == 2
    assert main(["data", "build", notes, "--eval", f"train={notes}", "--out", str(tmp_path / "b")]) == 1
    assert main(["data", "build", notes, "--format", "csv", "--out", out]) == 2


def test_a_content_that_changed_is_found_by_verify(tmp_path, notes):
    manifest = made(tmp_path, notes, documents="line")
    path = tmp_path / "out/train-00000.tokens"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(DataError, match="train-00000: its content is not what the manifest says"):
        verify_hashes(manifest)
