"""`composer train --from RUN` takes the weights of a run that fit and says which; refuses other shapes."""

import pytest
import torch
from runs import SPEC, spec

import composer
from composer.cli.main import main
from composer.training.folder.checkpoint import read_checkpoint, read_weights
from composer.training.folder.errors import TrainingError
from composer.training.run import run_training
from composer.training.score import read, score

SHORT = "train.tokens=1024"
STILL = ("train.lr=1e-30", "train.weight_decay=0", "blocks.expert.balance_rate=0")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return run_training(spec(SHORT), tmp_path_factory.mktemp("first") / "run").folder


def test_a_run_goes_on_from_the_weights_with_other_steps_data_and_rates(first, tmp_path):
    other = spec(SHORT, "stages.0.recur=3", "train.data.hops=2", *STILL)
    result = run_training(other, tmp_path / "run", start=read(first))
    ends = [read_weights(folder / "model.safetensors")[0] for folder in (first, result.folder)]
    torch.testing.assert_close(ends[0], ends[1])
    assert result.metrics == pytest.approx(
        score(read(first), ["stages.0.recur=3", "train.data.hops=2"]).scores, rel=1e-4
    )


def test_what_is_taken_and_what_is_new_is_said_in_words(first, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.yaml").write_text(SPEC)
    grown = "stages=[{recur: 3, step: [seq, depth, expert]}, {stack: 2, step: [seq]}]"
    settings = ["--set", grown, "--set", "train.tokens=256", "--set", "model.tie_embeddings=false"]
    assert main(["train", "more.yaml", "--from", str(first), *settings]) == 0
    output = capsys.readouterr().out
    assert f"{first}/model.safetensors: 17 of 28 weights taken" in output, output
    assert "  new: head, stages.1 (10 weights)\n  stages.0 runs 3 steps, 2 there\n" in output
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("tiny-")
    assert "-from-" in folder.name
    # the run has a spec of its own, which --from alone takes up again
    again = ["train", "--from", str(folder), "--weights", "last", "--out", "again"]
    assert main([*again, "--set", "train.lr=1e-4"]) == 0
    assert "28 of 28 weights taken" in capsys.readouterr().out
    fresh = composer.compile(composer.load(tmp_path / "more.yaml"))
    assert composer.start_from(fresh, folder).unused == tuple(
        name for name in read(folder).weights if name == "head" or name.startswith("stages.1")
    )
    assert "not used: head, stages.1 (10 weights)" in composer.start_from(fresh, folder).text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.vocab=20"], r"do not fit tiny\n  embedding: \[16, 16\] there, \[20, 16\] here"),
        (["blocks.expert.hidden=8"], r"expert.gate_up: \[4, 16, 32\] there, \[4, 16, 16\] here\n  stages"),
    ],
)
def test_other_shapes_are_refused_by_name(first, settings, message, tmp_path):
    with pytest.raises(TrainingError, match=message):
        run_training(spec(SHORT, *settings), tmp_path / "run", start=read(first))
    assert not (tmp_path / "run").exists()


def test_a_stopped_run_resumes_and_another_beginning_is_refused(first, tmp_path):
    wanted, start = spec(SHORT), read(first)
    whole = run_training(wanted, tmp_path / "whole", start=start)
    run_training(wanted, tmp_path / "parts", start=start, until_tokens=512)
    parts = run_training(wanted, tmp_path / "parts")
    ends = [read_checkpoint(run.folder / "last.ckpt")["state_dict"] for run in (whole, parts)]
    assert all(torch.equal(ends[1][name], weight) for name, weight in ends[0].items())
    assert not run_training(wanted, tmp_path / "parts", start=start).trained
    with pytest.raises(TrainingError, match=r"began from other weights than those of .*last.ckpt"):
        run_training(wanted, tmp_path / "parts", start=read(whole.folder, "last"))
    with pytest.raises(TrainingError, match="began from fresh weights"):
        run_training(wanted, first, start=start)


@pytest.mark.parametrize("arguments", [[], ["--weights", "last", "x.yaml"]])
def test_a_command_that_says_too_little_is_refused(arguments, capsys):
    assert main(["train", *arguments]) == 2
    assert "--from RUN" in " ".join(capsys.readouterr().err.split())
