"""match and arms as commands: what they print and write, and how they end."""

import json

import pytest

from composer.cli.main import main
from composer.language.load import load

TINY, SMALL = "specs/dreamer-tiny.yaml", "specs/dreamer-small.yaml"


def test_match_prints_every_residual_and_a_spec_that_loads(tmp_path, capsys):
    options = ["match", "specs/recurrent-tiny.yaml", "--to", TINY]
    assert main(options) == 0
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed)
    assert main([*options, "--out", str(tmp_path / "out.yaml")]) == 0
    output = capsys.readouterr().out
    assert load(tmp_path / "printed.yaml") == load(tmp_path / "out.yaml")
    for measure in ("params", "flops_per_token", "train_memory"):
        (line,) = (line for line in output.splitlines() if line.startswith(measure))
        assert " % " in line
        assert line.endswith("ok")
    assert (
        "vocabulary, context and training are those of dreamer-tiny; memory is that of 2400 tokens" in output
    )


def test_match_ends_with_1_and_writes_nothing_above_the_tolerance(tmp_path, capsys):
    out = tmp_path / "out.yaml"
    options = ["match", "specs/recurrent-tiny.yaml", "--to", TINY, "--free", "seq.heads", "--out", str(out)]
    assert main(options) == 1
    output = capsys.readouterr().out
    assert "off: params" in output
    assert "OFF" in output
    assert not out.exists()
    assert main([*options, "--tolerance", "params=90%,flops_per_token=90,train_memory=90 %"]) == 0
    assert out.exists()


@pytest.mark.parametrize("tolerance", ["params", "params=0", "params=-1", "params=x", "parms=1"])
def test_a_wrong_tolerance_is_told(tolerance, capsys):
    assert main(["match", TINY, "--to", TINY, "--tolerance", tolerance]) == 1
    err = capsys.readouterr().err
    assert "expected " in err
    assert "Traceback" not in err


def test_match_as_json_has_every_changed_value(tmp_path, capsys):
    out = tmp_path / "out.yaml"
    options = ["match", "specs/recurrent-tiny.yaml", "--to", TINY, "--json", "--out", str(out)]
    assert main(options) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["matched"]
    assert report["bounds"]["width_factor"] == 1.5
    base, matched = load("specs/recurrent-tiny.yaml"), load(out)
    for change in report["changed"]:
        _, block, field = change["path"].split(".")
        assert getattr(matched.blocks[block], field) == change["new"]
        assert base.blocks[block].canonical(48)[field] == change["old"]
    assert {each["measure"] for each in report["residuals"]} == {"params", "flops_per_token", "train_memory"}


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        ("widht_factor=2", "(did you mean width_factor?)"),
        ("width_factor=0.5", "width_factor: expected a number"),
        ("hidden_ratio=[8, 1]", "expected hidden_ratio with the least first, got [8, 1]"),
        ("hidden_ratio=3", "two numbers above 0, the smallest first"),
        ("head_dims=[]", "head_dims: expected a list that is not empty"),
    ],
)
def test_a_wrong_bound_is_told(bound, message, capsys):
    assert main(["match", TINY, "--to", TINY, "--bound", bound]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("--bound")


def test_a_bound_on_the_command_line_binds(capsys):
    options = ["match", "docs/examples/gpt.yaml", "--to", "docs/examples/text-dreamer.yaml", "--on", "params"]
    assert main(options) == 0
    assert main([*options, "--bound", "width_factor=1", "--bound", "hidden_ratio=[4, 4]"]) == 1
    output = capsys.readouterr().out
    assert "no shape within the bounds meets all budgets; off: params" in output


def test_arms_writes_a_folder_of_matched_specs_with_their_residuals(tmp_path, capsys):
    folder = tmp_path / "arms"
    assert main(["arms", SMALL, "--out", str(folder)]) == 0
    output = capsys.readouterr().out
    written = {path.name for path in folder.iterdir()}
    assert {
        "residuals.md",
        "residuals.csv",
        "dr.yaml",
        "dr-da.yaml",
        "untied.yaml",
        "dr-dense.yaml",
    } < written
    assert max(map(len, output.replace(str(folder), "").splitlines())) <= 100
    assert "except params" in output
    for path in folder.glob("*.yaml"):
        assert load(path).name == f"dreamer-small-{path.stem}"
    assert (folder / "dr-dense.yaml").read_text().startswith("# not matched: params, ")
    (tmp_path / "file").touch()
    assert main(["arms", TINY, "--out", str(tmp_path / "file")]) == 1
    assert "expected a directory, got a file: " in capsys.readouterr().err


def test_arms_ends_with_1_where_one_is_not_matched_and_does_not_write_it(tmp_path, capsys):
    folder = tmp_path / "arms"
    assert main(["arms", TINY, "--json", "--on", "params,flops_per_token", "--out", str(folder)]) == 1
    report = json.loads(capsys.readouterr().out)
    arms = {arm["arm"]: arm for arm in report["arms"]}
    assert not arms["untied"]["matched"]
    assert not (folder / "untied.yaml").exists()
    assert any(note.startswith("untied: no shape within the bounds") for note in report["notes"])
    assert {change["path"] for change in arms["untied"]["changed"]}
