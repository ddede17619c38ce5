"""The commands as a user meets them: what they print, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from composer.cli.main import main
from composer.cli.terminal import guard
from composer.language.description.show import resolved_yaml
from composer.language.load import load

ROOT = Path(__file__).parents[2]
TEXT = """\
schema: 1
name: tiny
model: {width: 64, vocab: 16, context: 48}
blocks:
  seq: {type: sequence_attention, heads: 4}
  ff: {type: feed_forward, hidden: 64}
stages:
  - recur: 8
    step: [seq, ff]
train: {data: {task: hop, length: 48, symbols: 4, hops: 4}, tokens: 1M}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture
def space(tiny: str, tmp_path: Path) -> str:
    path = tmp_path / "space.yaml"
    path.write_text(
        f"extends: {tiny}\nname: narrow\nmodel: {{width: {{choice: [32, 64]}}}}\n"
        "search: {objectives: [{maximize: accuracy}], trials: 3}\n"
    )
    return str(path)


def ran(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def test_check_tells_what_it_understood(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(["check", tiny, "--set", "stages.0.recur=3"], capsys)
    assert (code, err) == (0, "")
    assert "tiny is valid: 3 steps of [seq, ff] with shared weights" in out
    assert "parameters" in out
    assert "arch " in out


def test_check_takes_a_space(space: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(["check", space], capsys)
    assert code == 0
    assert "narrow is a valid space of 1 parameter: maximize accuracy, 3 trials" in out


def test_check_refuses_what_is_above_a_cap(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(["check", tiny, "--set", "caps.params=10k"], capsys)
    assert (code, out) == (1, "")
    assert "caps.params: expected at most 10" in err


def test_faults_go_to_stderr_one_a_line_without_a_traceback(
    tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--set", "model.widht=3", "--set", "train.lr=fast"]
    code, out, err = ran(["check", tiny, *options], capsys)
    assert (code, out) == (1, "")
    assert [line.split("  ")[1].split(":")[0] for line in err.splitlines()] == ["model.widht", "train.lr"]


@pytest.mark.parametrize("command", ["check", "show"])
def test_a_missing_file_is_the_users_mistake(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran([command, "none.yaml"], capsys)
    assert (code, out) == (1, "")
    assert err == "file not found: none.yaml\n"


@pytest.mark.parametrize(
    "arguments", [[], ["chek"], ["check"], ["check", "a.yaml", "--no"], ["check", "a.yaml", "b.yaml"]]
)
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(arguments, capsys)[0] == 2


@pytest.mark.parametrize("command", ["check", "show", "schema"])
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran([command, "--help"], capsys)
    assert code == 0
    assert f"composer {command}" in out


def test_show_prints_a_spec_that_loads_to_the_same(
    tiny: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for options in ([], ["--resolved"]):
        code, out, _ = ran(["show", tiny, "--set", "train.seed=5", *options], capsys)
        (tmp_path / "again.yaml").write_text(out)
        assert code == 0
        assert load(tmp_path / "again.yaml") == load(tiny, ["train.seed=5"])
        assert ("# --set train.seed=5" in out) == bool(options)


def test_show_takes_what_a_spec_extends(
    tiny: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "top.yaml").write_text(f"extends: {tiny}\nname: top\n")
    code, out, _ = ran(["show", str(tmp_path / "top.yaml")], capsys)
    assert (code, out) == (0, resolved_yaml(load(tmp_path / "top.yaml")))


def test_schema_prints_or_writes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = ran(["schema"], capsys)
    assert code == 0
    assert "properties" in json.loads(out)
    assert ran(["schema", "--out", str(tmp_path / "x.json")], capsys)[:2] == (0, "")
    assert (tmp_path / "x.json").read_text() == out
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    code, _, err = ran(["schema", "--out", str(tmp_path / "no" / "x.json")], capsys)
    assert code == 1
    assert "directory not found: " in err


def test_an_interrupt_ends_with_130(
    tiny: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("composer.language.load.read_tree", interrupted)
    assert ran(["check", tiny], capsys)[0] == 130


@pytest.mark.parametrize("name", ["composer", "blocks", "search"])
def test_a_foreign_package_of_our_name_is_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert guard.foreign_packages() is None
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    hint = guard.foreign_packages()
    assert hint is not None
    assert f"the import name `{name}` is taken by another package" in hint


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from composer.cli.main import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("file", ["dreamer-tiny.yaml", "space.yaml"])
def test_check_imports_nothing_heavy_and_only_the_blocks_and_the_task_of_the_file(file: str) -> None:
    code = (
        "import sys; from composer.cli.main import main; main(['check', sys.argv[1]]); "
        "print({'torch', 'numpy', 'lightning', 'optuna', 'rich.console'} & set(sys.modules)); "
        "print(*(name for name in sys.modules if name.startswith(('blocks.', 'composer.data.tasks.'))))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "specs" / file)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    *_, heavy, imported = done.stdout.splitlines()
    assert heavy == "set()"
    names = set(imported.split())
    assert not {"blocks.latent_attention", "blocks.wiring.residual.streams"} & names
    assert "blocks.sequence_attention.operations" in names
    assert {name for name in names if name.startswith("composer.data.tasks.")} <= {"composer.data.tasks.hop"}


def test_a_process_ends_with_the_code_and_no_traceback(tiny: str) -> None:
    done = process("check", tiny, "--set", "model.width=x")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
