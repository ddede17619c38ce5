"""How commands end: 0 fine, 1 something in the user's files, 2 wrong usage; never with a traceback."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from cases import TINY

from composer.cli.main import main

ROOT = Path(__file__).parents[2]
READERS = ("check", "show", "cost", "draw", "fit", "arms", "compile", "bench", "train", "search")
COMMANDS = (
    *READERS,
    "calibrate",
    "diff",
    "doctor",
    "match",
    "eval",
    "generate",
    "export",
    "report",
    "schema",
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "space.yaml").write_text(
        "extends: tiny.yaml\nname: space\nmodel: {width: {choice: [8, 16]}}\n"
        "search: {objectives: [{maximize: accuracy}], trials: 2}\n"
    )
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "something.txt").touch()
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    (tmp_path / "broken.yaml").write_text("schema: [1\n")
    return tmp_path


def ended(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(shlex.split(line))
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none.yaml", "^file not found: none.yaml$"),
        ("folder", "^expected a file, got a directory: folder$"),
        ("tiny.yaml/under", "^part of the path is a file, not a directory: tiny.yaml/under$"),
        ("empty", "an empty file"),
        ("binary", "expected printable characters|expected UTF-8 text"),
        ("list.yaml", r"got \[a, b\]"),
        ("broken.yaml", r"broken.yaml:1:9  expected a closing \]"),
        ("'nul\0byte'", "null byte"),
    ],
)
def test_a_file_that_is_no_spec_ends_with_1_and_its_name(
    command: str, path: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ended(f"{command} {path}", capsys)
    assert (code, out) == (1, "")
    assert shlex.split(path)[0].split("\0")[0] in err
    assert re.search(reason, err), err


@pytest.mark.parametrize("command", READERS)
def test_a_file_that_may_not_be_read_ends_with_1(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    # whoever runs the tests may be allowed to read everything
    monkeypatch.setattr(Path, "read_bytes", refused)
    code, out, err = ended(f"{command} tiny.yaml", capsys)
    assert (code, out) == (1, "")
    assert err == "permission denied: tiny.yaml\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("search tiny.yaml", "expected a space"),
        ("train space.yaml", "got a space"),
        ("cost space.yaml", "got a space"),
        ("cost tiny.yaml none.yaml broken.yaml", "file not found: none.yaml\nbroken.yaml:1:9  expected"),
        ("train tiny.yaml --set train=null", "expected a `train` section"),
        ("check tiny.yaml --set nonsense", "expected path=value"),
        ("check tiny.yaml --set caps.params=10", "caps.params: expected at most 10"),
        ("compile tiny.yaml --set caps.params=10", "caps.params: expected at most 10"),
        ("train tiny.yaml --set caps.params=10", "caps.params: expected at most 10"),
        ("train tiny.yaml --out empty", "expected a folder for the run, got a file"),
        ("train tiny.yaml --out folder", "not a run folder"),
        ("search space.yaml --out empty", "expected a folder for the search, got a file"),
        ("search space.yaml --out folder", "not a search folder"),
        ("schema --out folder", "expected a file, got a directory: folder"),
        ("draw space.yaml", "got a space"),
        ("draw tiny.yaml --out none/a.svg", "directory not found: none"),
        ("diff tiny.yaml none.yaml", "none.yaml"),
        ("diff space.yaml tiny.yaml", "got a space"),
        ("diff tiny.yaml --set model.widht=3", "did you mean width?"),
        ("schema --out none/schema.json", "directory not found: none"),
        ("eval none", "file not found: none, expected a run folder"),
        ("eval folder", "expected a run folder"),
        ("eval binary", "binary"),
        ("eval empty", "empty"),
        ("eval tiny.yaml", "tiny.yaml"),
        ("export none --out made", "file not found: none, expected a run folder"),
        ("generate none --prompt 1", "file not found: none, expected a run folder"),
    ],
)
def test_the_users_mistakes_end_with_1(line: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ended(line, capsys)
    assert code == 1
    assert reason in err


@pytest.mark.parametrize(
    "line",
    [
        "",
        "chek tiny.yaml",
        "--nonsense",
        *(command for command in COMMANDS if command not in ("bench", "calibrate", "doctor", "schema")),
        *(f"{command} tiny.yaml --nonsense" for command in COMMANDS),
        *(f"{command} tiny.yaml another.yaml" for command in READERS if command != "cost"),
        "cost tiny.yaml tiny.yaml --operations",
        "cost tiny.yaml tiny.yaml --device cpu",
        "check tiny.yaml --set",
        "compile tiny.yaml --kernels fast",
        "diff tiny.yaml tiny.yaml tiny.yaml",
        "draw tiny.yaml --out picture.png",
        "show tiny.yaml --resolved --changed",
        "search space.yaml --trials 0",
        "eval folder --checkpoint first",
        "eval folder --steps many",
        "generate folder --prompt 1 --steps 2,3",
        "generate folder --prompt 1 --max-new-tokens 0",
        "schema tiny.yaml",
        "doctor tiny.yaml",
    ],
)
def test_wrong_usage_ends_with_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(line, capsys)[0] == 2


def test_what_is_right_ends_with_0(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in (
        "check tiny.yaml",
        "check space.yaml",
        "show tiny.yaml --resolved",
        "show tiny.yaml --changed",
        "diff tiny.yaml",
        "diff tiny.yaml tiny.yaml --set stages.0.recur=3",
        "diff tiny.yaml --json",
        "draw tiny.yaml",
        "schema",
        "cost tiny.yaml",
        "cost tiny.yaml --operations",
        "cost tiny.yaml --json",
        "compile tiny.yaml --code --kernels reference",
        "train tiny.yaml --out run",
        "train tiny.yaml --out run",
        "eval run",
        "eval run --steps 1,2,3 --tokens 320 --checkpoint last --json",
        "generate run --prompt '3 1 4' --temperature 0 --steps 3",
        "export run --out exported",
        "search space.yaml --dry-run",
        "search space.yaml --out found --quiet",
        "--version",
        "--help",
    ):
        code, out, err = ended(line, capsys)
        assert (code, err) == (0, "") or (line.startswith(("train", "search")) and code == 0), (line, err)
        assert out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_tells_all_it_takes_and_an_example_that_runs(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    code, out, err = ended(f"{command} --help", capsys)
    assert (code, err) == (0, "")
    assert f"composer {command} " in out
    assert ("--set" in out) == (
        command not in ("calibrate", "doctor", "export", "generate", "report", "schema")
    )
    # markup that ate a placeholder leaves a hole
    assert not re.search(r"runs/[^<\w]", out)
    example = re.search(r"Example: composer (.*)", out)
    assert example is not None
    if command in ("check", "show", "cost", "diff", "fit", "match", "compile"):
        monkeypatch.chdir(ROOT)
        assert ended(example[1], capsys)[0] == 0


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ended("--help", capsys)
    listed = [re.search(rf"^\W*{command}  +\w", out, re.MULTILINE) for command in COMMANDS]
    assert None not in listed
    assert "Exit codes: 0 fine, 1 something in your files, 2 wrong usage" in out
