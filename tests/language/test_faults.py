"""Every fault names file, line, column, key, what was expected and what came."""

from __future__ import annotations

import os
from threading import Thread

import pytest
from broken_options import OPTIONS
from broken_specs import WRONG
from spec_texts import TINY

from composer.language.load import load, loads
from composer.language.parsing import files
from composer.settings.errors import SpecError

BROKEN = [*WRONG, *OPTIONS]


def faults(text: str, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        loads(text, "x.yaml", overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("old", "new", "place", "message"), BROKEN, ids=[f"{new}@{at}" for _, new, at, _ in BROKEN]
)
def test_a_fault_names_its_place_and_what_was_expected(
    old: str, new: str, place: str, message: list[str]
) -> None:
    assert old in TINY
    results = [line for line in faults(TINY.replace(old, new, 1)) if line.startswith(f"x.yaml:{place}")]
    assert results, "\n".join(faults(TINY.replace(old, new, 1)))
    assert [words for words in message if words not in results[0]] == []


def test_no_fault_speaks_pydantic() -> None:
    for old, new, _, _ in BROKEN:
        for line in faults(TINY.replace(old, new, 1)):
            assert not any(
                word in line for word in ("pydantic", "Input should", "union", "extra_", "NoneType")
            )


def test_a_misspelt_key_is_one_fault() -> None:
    assert len(faults(TINY.replace("width", "widht"))) == 1


def test_all_faults_of_a_file_come_at_once_in_order() -> None:
    text = (
        TINY.replace("width: 64", "width: 0").replace("recur: 4", "recur: x").replace("lr: 3e-3", "lr: ${r}")
    )
    assert [line.split("  ")[0] for line in faults(text)] == ["x.yaml:3:16", "x.yaml:9:12", "x.yaml:15:7"]


def test_a_fault_of_an_option_names_the_option() -> None:
    assert faults(TINY, "model.width=x") == [
        "--set model.width=x  model.width: expected a whole number above 0, such as 64 or 4Ki, got 'x'"
    ]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("model.width", "path=value"),
        ("=3", "path=value"),
        ("stages.1.recur=3", "an item from 0 to 0, got '1'"),
        ("stages.one.recur=3", "an item from 0 to 0, got 'one'"),
        ("model.width.x=3", "a mapping or list, got 64"),
        ("model..x=3", "a name between dots"),
        ("model.width=[", "a closing ]"),
        ("model.depth=3", "a known key"),
        ("extends=x.yaml", "extends in a file only"),
    ],
)
def test_an_option_that_cannot_be_set_is_refused(option: str, message: str) -> None:
    (line,) = faults(TINY, option)
    assert line.startswith(f"--set {option}  ")
    assert message in line


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "1:1  expected a mapping with the keys of a spec, got an empty file"),
        (b"# only\n", "got an empty file"),
        (b"[1]", "1:1  expected a mapping with the keys of a spec, got [1]"),
        (b"a: b\nc: \xff\n", "2:4  expected UTF-8 text, got the byte 0xff (save the file as UTF-8)"),
        (b"a: \x07", "1:4  expected printable characters, got U+0007"),
        (b"a: 1\n---\nb: 2\n", "2:1  expected one document, got a second one"),
        (b"a: " + b"[" * 3000, "1:64  expected at most 60 levels"),
        (b"a: " + b"{b: " * 3000, "1:241  expected at most 60 levels"),
        (b"a: " + b"[" * 62, "1:64  expected at most 60 levels"),
        (b"- " * 3000, "1:123  expected at most 60 levels"),
        (b"a: '" + b"[" * 3000 + b"'\nb: [", "2:4  expected a closing ], got none"),
        (b"a: " + b"9" * 5000, "at most 60 digits"),
        (b"a: &a [*a]", "an alias of an anchor above, got *a, which is undefined"),
        (
            b"a0: &a0 [x, x]\n"
            + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 40)),
            "at most 100000 values once aliases are written out",
        ),
        (b"#" * 1_000_001, "at most 1000000 characters"),
    ],
)
def test_a_file_that_is_no_spec_is_refused(data: bytes, message: str, tmp_path) -> None:
    (tmp_path / "x.yaml").write_bytes(data)
    with pytest.raises(SpecError) as caught:
        load(tmp_path / "x.yaml")
    assert message in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path) -> None:
    with pytest.raises(SpecError, match=r"^file not found: .*no\.yaml$"):
        load(tmp_path / "no.yaml")
    with pytest.raises(SpecError, match=r"^expected a file, got a directory: "):
        load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_is_read_where_somebody_writes_to_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_WAIT", 0.05)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        SpecError, match=r"pipe  expected an ordinary file, got a pipe that nobody writes to$"
    ):
        load(tmp_path / "pipe")
    for parent, kind in (("pipe", "a pipe"), (os.devnull, "a device")):
        (tmp_path / "child.yaml").write_text(f"extends: {parent}\n")
        with pytest.raises(
            SpecError, match=rf"child.yaml:1:10  extends: expected an ordinary file, got {kind}$"
        ):
            load(tmp_path / "child.yaml")
    monkeypatch.setattr(files, "_WAIT", 60)
    writer = Thread(target=(tmp_path / "pipe").write_text, args=(TINY,))
    writer.start()
    assert load(tmp_path / "pipe") == loads(TINY)
    writer.join()


def test_no_more_of_a_file_is_read_than_a_spec_may_have(tmp_path) -> None:
    with (tmp_path / "sparse.yaml").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(SpecError, match=r"sparse.yaml  expected at most 4000000 bytes, got more$"):
        load(tmp_path / "sparse.yaml")


def test_multiplying_references_are_refused() -> None:
    lists = "".join(f"  a{i}: ['${{a{i - 1}}}', '${{a{i - 1}}}', '${{a{i - 1}}}']\n" for i in range(1, 25))
    assert any("100000 values" in line for line in faults(f"{TINY}let:\n  a0: [x]\n{lists}zz: '${{a24}}'\n"))
    texts = "".join(f"  a{i}: '${{a{i - 1}}}${{a{i - 1}}}'\n" for i in range(1, 25))
    assert any(
        "10000 characters" in line for line in faults(f"{TINY}let:\n  a0: xx\n{texts}zz: '${{a24}}'\n")
    )
    numbers = "".join(f"  a{i}: '${{a{i - 1} * a{i - 1}}}'\n" for i in range(1, 25))
    assert any("up to 1e18" in line for line in faults(f"{TINY}let:\n  a0: 99\n{numbers}zz: '${{a24}}'\n"))
