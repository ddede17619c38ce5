"""Commands are found: ours by file, those of other packages and their checks of spaces by entry point."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from composer.cli.find import PANELS, find_commands
from composer.cli.main import main

ROOT = Path(__file__).parents[2]
PACKAGE = '''
"""Commands of another package."""

from composer.settings.errors import UserError

PANEL = "Extras"
EXAMPLE = "composer greet"


def greet(name: str) -> None:
    """Greet somebody."""
    print(f"hello {name}")


def strict(space: object) -> None:
    raise UserError(f"refused: {space.name}")
'''


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The entry points file of an installed package, to be written by the test."""
    (tmp_path / "greeting.py").write_text(PACKAGE)
    info = tmp_path / "greeting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    return info / "entry_points.txt"


def test_every_file_is_a_command_with_a_panel_and_an_example() -> None:
    folder = ROOT / "composer/cli/commands"
    groups = {
        path.parent for path in folder.glob("*/__init__.py") if "HELP" in path.read_text(encoding="utf-8")
    }
    alone = {path.stem.replace("_", "-") for path in folder.rglob("[a-z]*.py") if path.parent not in groups}
    commands = find_commands([])
    assert {each.name for each in commands} == {
        *alone,
        *(path.name for path in groups),
        "report",
        "search",
        "study",
    }
    assert {each.panel for each in commands} == set(PANELS)
    grouped = {each.name: {inner.name for inner in each.commands} for each in commands if each.commands}
    assert grouped == {path.name: {each.stem for each in path.glob("[a-z]*.py")} for path in groups}
    named = [(each.name, each) for each in commands if not each.commands]
    named += [(f"{each.name} {inner.name}", inner) for each in commands for inner in each.commands]
    assert all(each.example.startswith(f"composer {name}") for name, each in named)


def test_a_command_of_another_package_runs_and_is_listed_last(
    other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other.write_text("[composer.commands]\ngreet = greeting:greet\n")
    assert main(["greet", "Ada"]) == 0
    assert capsys.readouterr().out == "hello Ada\n"
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert re.findall(r"─ ([\w ]+) ─", out) == ["Options", *PANELS, "Extras"]
    assert "Greet somebody." in out
    assert err == ""


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("greet = nowhere:greet", "No module named 'nowhere'"),
        ("greet = greeting:none", "has no attribute 'none'"),
        ("check = greeting:greet", "there is a command of that name already"),
    ],
)
def test_a_command_that_cannot_be_loaded_leaves_the_others_alone(
    line: str, reason: str, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other.write_text(f"[composer.commands]\n{line}\n")
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert "Search" in out
    assert f"cannot load the command '{line.split()[0]}'" in err
    assert reason in err
    assert main(["check", str(ROOT / "specs/dreamer-tiny.yaml")]) == 0
    if line.startswith("greet"):
        capsys.readouterr()
        assert main(["greet", "Ada"]) == 1
        assert reason in capsys.readouterr().err


def test_check_asks_other_packages_about_a_space(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other.write_text("[composer.checks]\nstrict = greeting:strict\n")
    assert main(["check", str(ROOT / "specs/space.yaml")]) == 1
    assert capsys.readouterr().err == "refused: space\n"


def test_a_checkout_that_is_not_installed_has_the_commands_of_search(tmp_path: Path) -> None:
    code = (
        "import blocks.base.entry_points as found; found._installed = lambda path: {}; "
        "from composer.cli.main import main; assert not main(['search', '--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    assert "composer search " in done.stdout
