"""A reader of the output that goes away ends nothing, and nothing else is blamed for it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases import TINY

from composer.cli.main import main
from composer.cli.terminal.output import outliving_readers
from composer.settings.errors import UserError


@pytest.fixture
def unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Specs in the current directory; standard output and standard error are pipes that nobody reads."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "space.yaml").write_text(
        "extends: tiny.yaml\nname: space\nmodel: {width: {choice: [8, 16]}}\n"
        "search: {objectives: [{maximize: accuracy}], trials: 1}\n"
    )
    ends = []
    for name in ("stdout", "stderr"):
        reader, writer = os.pipe()
        os.close(reader)
        ends.append(os.fdopen(writer, "w"))
        monkeypatch.setattr(sys, name, ends[-1])
    yield
    for end in ends:
        end.close()  # would fail if anything were left to be written to a broken pipe


@pytest.mark.usefixtures("unread")
def test_training_goes_on_to_its_end_without_a_reader() -> None:
    assert main(["train", "tiny.yaml", "--out", "run"]) == 0
    assert Path("run/model.safetensors").exists()
    assert main(["eval", "run"]) == 0


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("option", [[], ["--json"]], ids=["table", "events"])
def test_a_search_goes_on_to_its_end_without_a_reader(option: list[str]) -> None:
    assert main(["search", "space.yaml", "--out", "found", *option]) == 0
    assert Path("found/best/model.safetensors").exists()


@pytest.mark.usefixtures("unread")
def test_errors_keep_their_exit_code_without_a_reader() -> None:
    assert main(["check", "nowhere.yaml"]) == 1
    assert main(["check"]) == 2


def test_a_short_command_ends_quietly_when_its_reader_has_gone() -> None:
    command = [sys.executable, "-m", "composer", "schema"]  # prints more than a pipe holds
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"{"
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_a_terminal_that_is_closed_is_a_reader_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        os.close(master)
        with outliving_readers():
            print("nobody sees this", flush=True)
            print("nor this", flush=True)
        assert sys.stdout is terminal


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["check", "show"])
def test_output_to_a_full_disk_ends_in_a_sentence(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main([command, "tiny.yaml"]) == 1
        assert capsys.readouterr().err == f"/dev/full: {os.strerror(errno.ENOSPC)}\n"


def test_a_process_that_loaded_torch_ends_without_a_word() -> None:
    pytest.importorskip("triton")
    code = "import torch, triton, composer.cli.main as cli; raise SystemExit(cli.main(['doctor', '--help']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_a_refused_command_had_printed_is_dropped_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(arguments: list[str]) -> int:
        print("printed before")
        raise UserError("refused")

    monkeypatch.setattr("composer.cli.main._run", refused)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        assert main([]) == 1
        unread.flush()
