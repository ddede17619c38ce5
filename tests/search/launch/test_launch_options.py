"""Wrong options of launchers are named with what was expected, be their packages installed or not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from composer.cli.main import main
from search.errors import SearchError
from search.launch.launcher import asked
from search.launch.launchers.ray import connect

SPECS = Path(__file__).parents[3] / "specs"


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("slurm", "gpus=-1", "--launch gpus: expected a number of at least 0, got '-1'"),
        ("slurm", "restarts=1.5", "--launch restarts: expected a whole number, got '1.5'"),
        ("slurm", "cluster=k8s", "--launch cluster: expected 'slurm' or 'local', got 'k8s'"),
        (
            "slurm",
            "time=soon",
            "--launch time: expected a duration such as 80ms, 90s, 15min or 2h, got 'soon'",
        ),
        ("ray", "cpus=0", "--launch cpus: expected a number above 0, got '0'"),
        ("ray", "cpus=many", "--launch cpus: expected a number, got 'many'"),
        ("local", "x=1", "--launch x: the launcher local has no option x; it has no options"),
    ],
)
def test_a_wrong_option_is_named_with_what_was_expected(name: str, setting: str, message: str) -> None:
    with pytest.raises(SearchError) as refused:
        asked(name, None, [setting]).checked()
    assert str(refused.value) == message


@pytest.mark.parametrize("command", [("search", "space.yaml"), ("study", "studies/hop.yaml")])
def test_a_dry_run_checks_the_launcher_too(command: tuple[str, str], capsys) -> None:
    name, file = command
    assert main([name, str(SPECS / file), "--dry-run", "--launcher", "k8s"]) == 1
    assert "--launcher: expected one of" in capsys.readouterr().err


def test_a_setting_has_a_key_and_a_launcher_a_name() -> None:
    with pytest.raises(SearchError, match="expected KEY=VALUE, got 'x'"):
        asked("local", None, ["x"])
    with pytest.raises(SearchError, match=r"expected one of .*local.*, got 'foo'"):
        asked("foo", None, None).checked()


@pytest.mark.parametrize("named", ["--address", "RAY_ADDRESS"])
def test_an_address_where_no_cluster_listens_is_told_at_once(monkeypatch, named):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        if named == "RAY_ADDRESS":
            monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(SearchError, match=f"expected a running Ray cluster at {address}: "):
            connect("auto" if named == "RAY_ADDRESS" else address)
