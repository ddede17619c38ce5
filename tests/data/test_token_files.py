"""Tokens of other programs are imported document by document.

The layouts are those that the programs' own writers wrote: nanoGPT 3adf61e (`prepare.py`), litdata 0.2.76
(`optimize`, as litgpt 0.5.13 calls it), lit-gpt ad65549 (`PackedDatasetBuilder`), OLMo-core 3.0.0
(`write_memmap`).
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import zstandard

from composer.data.base.errors import DataError
from composer.data.building.base.source import Options
from composer.data.building.build import Sources, build
from composer.data.tasks.tokens import Tokens
from composer.data.tokens.shards import open_split


def made(tmp_path, *sources, **options):
    return build(Sources(sources), tmp_path / "out", Options(**options))


def found_documents(manifest):
    results = []
    for split in manifest.splits:
        for shard in open_split(manifest, split):
            results += [part.tolist() for part in np.split(shard.tokens, shard.ends[:-1])]
    return results


END = 7
RAW = [[*range(10 + i, 14 + i + i % 3), END] for i in range(300)]
FLAT = np.concatenate([np.array(document) for document in RAW])


def packed_litgpt(folder, dtype="<u2", code=8, size=500):
    """Files of `size` tokens; documents go on from one to the next, and the last is filled with END."""
    folder.mkdir()
    filled = np.append(FLAT, [END] * (-len(FLAT) % size)).astype(dtype)
    for number, chunk in enumerate(filled.reshape(-1, size)):
        header = b"LITPKDS" + (1).to_bytes(8, "little") + bytes([code]) + size.to_bytes(8, "little")
        (folder / f"train_{number:010d}.bin").write_bytes(header + chunk.tobytes())
    return folder


def litdata(folder, kind="no_header_tensor:16", dtype="<i4", tree=False, old=False, packed=None):
    """Chunks of 100 items; with `tree` as PyTreeLoader has them, each after its size in bytes.

    `packed` is the compression of whole chunks.
    """
    folder.mkdir()
    chunks = []
    for number, low in enumerate(range(0, 300, 100)):
        raw = [np.array(document).astype(dtype).tobytes() for document in RAW[low : low + 100]]
        items = [np.uint32(len(item)).tobytes() + item if tree else item for item in raw]
        places = np.cumsum([0, *map(len, items)]) + 4 + 4 * (len(items) + 1)
        content = np.uint32(len(items)).tobytes() + places.astype("<u4").tobytes() + b"".join(items)
        name = f"chunk-0-{number}.{packed}.bin" if packed else f"chunk-0-{number}.bin"
        (folder / name).write_bytes(zstandard.compress(content) if packed else content)
        dim = None if tree else sum(map(len, RAW[low : low + 100]))
        named = {"chunk_bytes": len(content), "chunk_size": 100, "filename": name}
        chunks.append({**named, "dim": dim})
    loader = {} if old else {"item_loader": "PyTreeLoader" if tree else "TokensLoader"}
    config = {"compression": packed, "data_format": [kind], "encryption": None, **loader}
    (folder / "index.json").write_text(json.dumps({"chunks": chunks, "config": config}, sort_keys=True))
    return folder


def llm_c(path):
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, len(FLAT)
    path.write_bytes(header.tobytes() + FLAT.astype("<u2").tobytes())
    return path


def raw(path, dtype):
    path.write_bytes(FLAT.astype(dtype).tobytes())
    return path


def saved(path):
    np.save(path, FLAT.astype(np.int32))
    return path


IMPORTS = {
    "nanoGPT": (lambda d: raw(d / "train.bin", "<u2"), "nanogpt", {}),
    "llm.c": (lambda d: llm_c(d / "fineweb_train.bin"), "nanogpt", {}),
    "litgpt, packed": (lambda d: packed_litgpt(d / "packed"), "litgpt", {}),
    "litgpt, packed in one": (lambda d: packed_litgpt(d / "packed", size=2000), "litgpt", {}),
    "litgpt, packed in small": (lambda d: packed_litgpt(d / "packed", "<i4", 4, size=3), "litgpt", {}),
    "litdata": (lambda d: litdata(d / "made"), "litgpt", {}),
    "litdata, older": (lambda d: litdata(d / "made", old=True), "litgpt", {}),
    "litdata, numpy": (lambda d: litdata(d / "made", "no_header_numpy:5", "<u2"), "litgpt", {}),
    "litdata, uint16": (lambda d: litdata(d / "made", "no_header_tensor:20", "<u2"), "litgpt", {}),
    "litdata, zstd": (lambda d: litdata(d / "made", packed="zstd"), "litgpt", {}),
    "litdata, sizes, zstd": (lambda d: litdata(d / "made", tree=True, packed="zstd:4"), "litgpt", {}),
    "litdata, sizes": (lambda d: litdata(d / "made", tree=True), "litgpt", {}),
    "litdata, older with sizes": (lambda d: litdata(d / "made", tree=True, old=True), "litgpt", {}),
    "OLMo-core": (lambda d: raw(d / "part-0.npy", "<u4"), "olmo", {"dtype": "uint32"}),
    "numpy": (lambda d: saved(d / "part-0.npy"), "olmo", {}),
}


@pytest.mark.parametrize("kind", IMPORTS)
def test_tokens_of_other_programs_are_imported_document_by_document(tmp_path, kind):
    make, name, options = IMPORTS[kind]
    source = make(tmp_path)
    manifest = made(tmp_path, str(source), end_of_document=str(END), eval_fraction=0.2, **options)
    assert manifest.report["formats"] == [name]
    assert (manifest.vocab, manifest.end_of_document, manifest.tokenizer) == (max(FLAT) + 1, END, "")
    assert sorted(found_documents(manifest)) == sorted(RAW)
    assert "bits_per_byte" not in Tokens(path=str(tmp_path / "out"), length=8).metrics


@pytest.mark.parametrize("tree", [False, True])
def test_an_item_of_litdata_is_a_document_without_a_token_that_ends_it(tmp_path, tree):
    manifest = made(tmp_path, str(litdata(tmp_path / "made", tree=tree)), eval_fraction=0.0)
    assert found_documents(manifest) == RAW


def test_a_packed_document_belongs_to_the_file_that_it_begins_in(tmp_path):
    folder = packed_litgpt(tmp_path / "packed")
    whole = []
    for file in sorted(folder.iterdir()):
        options = Options(end_of_document=str(END), eval_fraction=0.0)
        whole += found_documents(build(Sources([str(file)]), tmp_path / file.name, options))
    assert whole == RAW


def test_documents_of_nothing_but_their_end_are_left_out(tmp_path):
    path = tmp_path / "train.bin"
    path.write_bytes(np.array([END, 1, 2, END, END, END, 3], "<u2").tobytes())
    manifest = made(tmp_path, str(path), end_of_document=str(END), eval_fraction=0.0)
    assert found_documents(manifest) == [[1, 2, END], [3, END]]


def test_an_end_that_the_type_of_tokens_cannot_hold_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected a token of uint16, 0 .. 65535, got 70000"):
        made(tmp_path, str(raw(tmp_path / "train.bin", "<u2")), end_of_document="70000")


def test_compressed_chunks_that_are_damaged_or_of_other_kinds_are_refused(tmp_path):
    folder = litdata(tmp_path / "optimized", packed="zstd")
    chunk = folder / "chunk-0-1.zstd.bin"
    whole = chunk.read_bytes()
    for content in (whole[:-20], b"no frame", zstandard.compress(zstandard.decompress(whole)[:900])):
        chunk.write_bytes(content)
        with pytest.raises(DataError, match=r"chunk-0-1\.zstd\.bin: (not a whole chunk|damaged)"):
            made(tmp_path, str(folder))
    index = json.loads((folder / "index.json").read_text())
    for other in ({"compression": "lz4"}, {"compression_level": "batch"}, {"encryption": {"level": "chunk"}}):
        changed = {**index, "config": {**index["config"], **other}}
        (folder / "index.json").write_text(json.dumps(changed))
        with pytest.raises(DataError, match=r"expected plain tokens, .* (compressed by|encrypted)"):
            made(tmp_path, str(folder))


def test_damaged_chunks_of_litgpt_are_refused(tmp_path):
    folder = litdata(tmp_path / "optimized")
    os.truncate(folder / "chunk-0-1.bin", 900)
    with pytest.raises(DataError, match=r"chunk-0-1\.bin: \d+ bytes of tokens are not whole tokens"):
        made(tmp_path, str(folder))
    index = json.loads((folder / "index.json").read_text())
    index["config"]["data_format"] = ["jpeg"]
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"expected plain tokens, .* got items of \['jpeg'\]"):
        made(tmp_path, str(folder))
