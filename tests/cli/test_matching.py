"""match and arms as commands: what they print and write, and how they end."""

import pytest

from composer.cli.main import main
from composer.spec.load import load

TINY = "specs/dreamer-tiny.yaml"


def test_match_prints_every_residual_and_a_spec_that_loads(tmp_path, capsys):
    options = ["match", "specs/recurrent-tiny.yaml", "--to", TINY]
    assert main(options) == 0
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed)
    assert main([*options, "--out", str(tmp_path / "out.yaml")]) == 0
    told = capsys.readouterr().out
    assert load(tmp_path / "printed.yaml") == load(tmp_path / "out.yaml")
    for measure in ("params", "flops_per_token", "train_memory"):
        (line,) = (line for line in told.splitlines() if line.startswith(measure))
        assert " % " in line
        assert line.endswith("ok")
    assert "vocabulary, context and training are those of dreamer-tiny; memory is that of 2400 tokens" in told


def test_match_ends_with_1_and_writes_nothing_above_the_tolerance(tmp_path, capsys):
    out = tmp_path / "out.yaml"
    options = ["match", "specs/recurrent-tiny.yaml", "--to", TINY, "--free", "seq.heads", "--out", str(out)]
    assert main(options) == 1
    told = capsys.readouterr().out
    assert "off in params" in told
    assert "OFF" in told
    assert not out.exists()
    assert main([*options, "--tolerance", "params=90%,flops_per_token=90,train_memory=90 %"]) == 0
    assert out.exists()


@pytest.mark.parametrize("tolerance", ["params", "params=0", "params=-1", "params=x", "parms=1"])
def test_a_wrong_tolerance_is_told(tolerance, capsys):
    assert main(["match", TINY, "--to", TINY, "--tolerance", tolerance]) == 1
    err = capsys.readouterr().err
    assert "expected " in err
    assert "Traceback" not in err


def test_arms_writes_a_folder_of_matched_specs_with_their_residuals(tmp_path, capsys):
    folder = tmp_path / "arms"
    assert main(["arms", TINY, "--out", str(folder)]) == 0
    told = capsys.readouterr().out
    written = {path.name for path in folder.iterdir()}
    assert {"residuals.md", "residuals.csv", "dr.yaml", "dr-da.yaml", "untied.yaml"} < written
    assert "dr-dense.yaml" not in written
    assert "no: params" in told
    for path in folder.glob("*.yaml"):
        assert load(path).name == f"dreamer-tiny-{path.stem}"
        assert main(["check", str(path)]) == 0
    (tmp_path / "file").touch()
    assert main(["arms", TINY, "--out", str(tmp_path / "file")]) == 1
    assert "expected a directory, got a file: " in capsys.readouterr().err
