"""The task `tokens`: which sequences it gives, in which order, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from token_folders import write_tokens

from composer.data.base.errors import DataError
from composer.data.tasks.tokens import Tokens
from composer.data.tokens.mixture import BLOCK, Mixture
from composer.data.tokens.shuffle import shuffled
from composer.testing.tasks import CHECKS

ROOT = Path(__file__).parents[2]


def documents(seed: int, count: int = 120, vocab: int = 250) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[*rng.integers(1, vocab, rng.integers(1, 90)).tolist(), 0] for _ in range(count)]


@pytest.fixture
def folder(tmp_path):
    return write_tokens(
        tmp_path / "data", {"train": documents(0), "eval": documents(1, 20)}, shard_tokens=1000
    )


def rows_of(batch):
    """Return [size, length + 1]: the tokens and the last target."""
    return np.concatenate([batch.tokens, batch.targets[:, -1:]], axis=1)


@pytest.mark.parametrize("kept", ["packed", "apart"])
@pytest.mark.parametrize("prompts", [0, 3])
def test_it_conforms(tmp_path, kept, prompts):
    path = write_tokens(tmp_path, {"train": documents(0), "eval": documents(1, 20)}, prompts=prompts)
    for check in CHECKS.values():
        check(Tokens(path=path, length=16, documents=kept))


@pytest.mark.parametrize("count", [1, 2, 3, 17, 1000, 4097])
def test_shuffling_is_a_permutation_that_the_key_selects(count):
    numbers = np.arange(count)
    one, other = (shuffled(numbers, count, key) for key in (1, 2))
    assert sorted(one.tolist()) == numbers.tolist() == sorted(other.tolist())
    assert count < 10 or (not np.array_equal(one, other) and not np.array_equal(one, numbers))
    assert np.array_equal(shuffled(numbers[::-1], count, 1), one[::-1])


def test_shuffled_numbers_are_spread_like_random_ones():
    result = shuffled(np.arange(10_000), 100_000, 5)
    counts = np.histogram(result, 100, (0, 100_000))[0]
    assert counts.min() > 60
    assert counts.max() < 145
    assert abs(np.corrcoef(np.arange(10_000), result)[0, 1]) < 0.05


def test_packed_windows_are_read_once_a_pass_and_elsewhere_in_the_next(folder):
    stream = Tokens(path=folder, length=16).stream("train", 3)
    (windows,) = stream.sources
    shards = [shard.tokens.tolist() for shard in windows.shards]
    assert len(shards) > 3
    passes = []
    for epoch in range(2):
        batch = stream.batch(epoch, windows.count)
        starts = set()
        for row in rows_of(batch).tolist():
            results = [(i, p) for i, s in enumerate(shards) for p in range(len(s)) if s[p : p + 17] == row]
            assert results
            starts.add(results[0])
        assert len(starts) == windows.count
        passes.append(starts)
    assert passes[0].isdisjoint(passes[1])
    covered = {(i, p + j) for i, p in passes[0] for j in range(17)}
    assert len(covered) > sum(map(len, shards)) - 2 * 16 * len(shards)


def test_apart_gives_each_document_in_pieces_and_never_two_in_a_sequence(folder):
    stream = Tokens(path=folder, length=16, documents="apart").stream("train", 3)
    (windows,) = stream.sources
    batch = stream.batch(0, windows.count)
    expected = []
    for document in documents(0):
        for start in range(0, len(document) - 1, 16):
            piece = document[start : start + 17]
            expected.append(
                (*piece[:16], *[0] * (16 - len(piece[:16])), *piece[1:], *[-100] * (17 - len(piece)))
            )
    results = [
        (*row, *targets) for row, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True)
    ]
    assert sorted(results) == sorted(expected)
    assert (batch.targets == -100).any()


def test_many_documents_are_found_across_blocks_of_the_index(tmp_path):
    few = [[*range(1, 2 + i % 7), 0] for i in range(3000)]
    path = write_tokens(tmp_path, {"train": few, "eval": documents(1, 3)})
    stream = Tokens(path=path, length=4, documents="apart").stream("train", 0)
    (windows,) = stream.sources
    tokens, _ = windows.rows(np.arange(windows.count), 0)
    wanted = [document[s : s + 4] for document in few for s in range(0, len(document) - 1, 4)]
    assert [row[: len(want)] for row, want in zip(tokens.tolist(), wanted, strict=True)] == wanted


@pytest.mark.parametrize("kept", ["packed", "apart"])
def test_prompts_are_read_and_not_scored(tmp_path, kept):
    # prompts are even, targets odd
    rng = np.random.default_rng(0)
    made = [
        [*(2 * rng.integers(1, 100, 5)), *(2 * rng.integers(1, 100, rng.integers(1, 9)) + 1)]
        for _ in range(300)
    ]
    path = write_tokens(tmp_path, {"train": made, "eval": made[:20]}, prompts=5)
    batch = Tokens(path=path, length=32, documents=kept).stream("train", 0).batch(0, 20)
    scored = batch.targets != -100
    assert scored.any()
    assert (batch.targets[scored] % 2 == 1).all()
    following = np.roll(batch.tokens, -1, axis=1)[:, :-1]
    assert np.array_equal(scored[:, :-1], following % 2 == 1)


def test_batches_are_cut_from_one_row_of_sequences_whatever_their_size(folder):
    stream = Tokens(path=folder, length=16).stream("train", 1)
    small = np.concatenate([stream.batch(step, 5).tokens for step in range(8)])
    assert np.array_equal(small, np.concatenate([stream.batch(step, 20).tokens for step in range(2)]))


def test_sources_take_turns_exactly_by_weight(tmp_path):
    for name, low in (("one", 1), ("two", 101), ("three", 201)):
        made = [[*(low + np.arange(40) % 50), 0] for _ in range(40)]
        write_tokens(tmp_path / name, {"train": made, "eval": made[:4]})
    config = Tokens(path=str(tmp_path), sources={"one": 5, "two": 2, "three": 1}, length=8, documents="apart")
    for check in CHECKS.values():
        if check is not CHECKS["train and eval apart"]:  # eval was made of train's documents here
            check(config)
    tokens = config.stream("train", 0).batch(1, BLOCK).tokens
    counts = np.bincount((tokens[:, 1] - 1) // 100, minlength=3)
    assert counts.tolist() == [BLOCK * 5 // 8, BLOCK * 2 // 8, BLOCK // 8]
    assert config.group_names == {0: "one", 1: "two", 2: "three"}
    sources, before = Mixture([5, 2, 1], 7).draw(np.arange(3 * BLOCK))
    for i in range(3):
        assert before[sources == i].tolist() == list(range(int((sources == i).sum())))


def test_evaluation_reads_every_held_out_sequence_once_and_says_which_set(tmp_path):
    sets = {"train": documents(0), "eval": documents(1, 30), "test": documents(2, 10)}
    path = write_tokens(tmp_path, sets)
    config = Tokens(path=path, length=8, eval_sets=("eval", "test"))
    stream = config.stream("eval", 0)
    batch = stream.batch(0, stream.distinct)
    flat = {name: [*chain.from_iterable(made)] for name, made in sets.items()}
    assert stream.distinct == sum((len(flat[name]) - 1) // 8 for name in ("eval", "test"))
    for i, name in enumerate(("eval", "test")):
        windows = {tuple(flat[name][s : s + 8]) for s in range(0, len(flat[name]) - 8, 8)}
        assert {tuple(row) for row in batch.tokens[batch.group == i].tolist()} == windows
    assert config.metrics == [
        "loss", "accuracy", "bits_per_byte", "loss_eval", "accuracy_eval", "loss_test", "accuracy_test",
    ]  # fmt: skip


def test_a_shard_ends_at_the_document_that_fills_it_and_none_is_lost(tmp_path):
    made = documents(4)
    path = write_tokens(tmp_path, {"train": made, "eval": made[:1]}, shard_tokens=50)
    result = Tokens(path=path, length=4).manifests()[""].split("train")
    assert result.tokens == sum(map(len, made))
    assert result.documents == len(made)
    for shard in result.shards:
        assert shard.tokens <= 50 or shard.documents == 1
    tokens = [np.fromfile(tmp_path / f"{shard.name}.tokens", "<u2") for shard in result.shards]
    assert np.concatenate(tokens).tolist() == [*chain.from_iterable(made)]


def test_what_contradicts_the_folder_is_refused_where_the_spec_is_checked(folder, tmp_path):
    size = SimpleNamespace(vocab=200, context=64)

    def faults(**fields):
        return [problem.key for problem in Tokens(**{"path": folder, "length": 16, **fields}).problems(size)]

    assert faults() == ["task"]
    size.vocab = 256
    assert faults() == []
    assert faults(path=str(tmp_path / "nowhere")) == []
    assert faults(eval_sets=("test",)) == ["eval_sets"]
    assert faults(eval_sets=("eval", "eval")) == ["eval_sets"]
    assert faults(eval_sets=("train",))[0] == "eval_sets"
    assert faults(sources={"a": 1, "b": 1e-9}) == ["sources.b"]
    assert faults(sources={"a/x": 1, "b/x": 1})[0] == "sources"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "manifest.json").unlink(), r"no manifest\.json, so this is not tokenized data"),
        (lambda d: (d / "manifest.json").write_text("{"), r"manifest\.json: .*damaged"),
        (lambda d: (d / "manifest.json").write_text('{"format": 9}'), "expected format 1, got 9"),
        (lambda d: (d / "train-00001.tokens").unlink(), r"file not found: .*train-00001\.tokens"),
        (lambda d: os.truncate(d / "train-00001.tokens", 10), r"train-00001\.tokens: expected [\d,]+ bytes"),
        (lambda d: os.truncate(d / "eval-00000.documents", 8), r"eval-00000\.documents: expected"),
    ],
)
def test_damaged_data_is_refused_by_file_and_reason(folder, damage, message):
    damage(Path(folder))
    config = Tokens(path=folder, length=16)
    with pytest.raises(DataError, match=message):
        config.fingerprint()


def test_too_little_data_is_refused(tmp_path):
    path = write_tokens(tmp_path, {"train": documents(0), "eval": [[1, 2, 0]]})
    with pytest.raises(DataError, match=r"eval has 3 tokens in 1 documents, .* length \+ 1 = 17"):
        Tokens(path=path, length=16).stream("eval", 0)
    assert Tokens(path=path, length=16, documents="apart").stream("eval", 0).distinct == 1
    with pytest.raises(DataError, match="no set 'test'; there are train and eval"):
        Tokens(path=path, length=16, eval_sets=("test",)).stream("eval", 0)


def test_the_fingerprint_is_of_the_content_and_moves_with_the_folder(folder, tmp_path):
    result = Tokens(path=folder, length=16).fingerprint()
    os.rename(folder, tmp_path / "moved")
    moved = Tokens(path=str(tmp_path / "moved"), length=16).fingerprint()
    assert result.changes(moved) == []
    other = write_tokens(
        tmp_path / "other", {"train": documents(9), "eval": documents(1, 20)}, shard_tokens=1000
    )
    assert result.changes(Tokens(path=other, length=16).fingerprint())


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs /proc, which tells anonymous memory"
)
def test_ten_gigabytes_are_mapped_and_not_held(tmp_path):
    path = write_tokens(tmp_path, {"train": documents(0), "eval": documents(1, 20)})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    tokens, count = 5 * 10**9, 10**6
    manifest["splits"]["train"]["shards"][0] |= {"tokens": tokens, "documents": count}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    os.truncate(tmp_path / "train-00000.tokens", 2 * tokens)
    os.truncate(tmp_path / "train-00000.documents", 16 * count)
    code = """if True:
        import sys
        from composer.data.tasks.tokens import Tokens
        def anonymous():
            return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0])
        import numpy
        before = anonymous()
        stream = Tokens(path=sys.argv[1], length=1024).stream("train", 0)
        for step in range(4):
            stream.batch(step, 64)
        print(anonymous() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) < 100_000
