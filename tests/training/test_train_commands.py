import json
import os
import signal

import pytest
from runs import SPEC, TOKENS, contents, spec

from composer.cli.main import main
from composer.training import recorder
from composer.training.folder import default_folder
from composer.training.run import run_training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run_training(spec("train.tokens=1280"), tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(SPEC)
    return str(path)


def test_train_tells_what_it_trains_how_far_it_is_and_what_came_of_it(file, capsys):
    assert main(["train", file, "--set", "train.tokens=1280"]) == 0
    folder = default_folder(spec("train.tokens=1280"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tiny: ")
    assert "parameters" in lines[0]
    assert "FLOPs per token" in lines[0]
    assert "in 5 steps of 256" in lines[1]
    assert lines[2] == f"folder: {folder}"
    assert any(line.startswith("step 5/5  loss ") for line in lines)
    assert any(line.split()[:1] == ["best"] for line in lines)
    assert any(f"composer eval {folder}" in line for line in lines)
    assert contents(folder)
    assert main(["train", file, "--set", "train.tokens=1280"]) == 0
    assert "this run is finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["caps.params=10"], "caps.params: expected at most 10"),
        (["train=null"], "`train` section"),
        (["train.data={task: text, path: nowhere.txt, length: 16}", "model.vocab=256"], "nowhere.txt"),
        (["train.lr=1e30", "train.schedule={warmup: 0, stable: 0.8, decay: 0.2}"], "learning rate 1e+30"),
    ],
)
def test_what_a_user_can_put_right_ends_with_1_and_a_word(file, capsys, settings, told):
    options = [option for setting in settings for option in ("--set", setting)]
    assert main(["train", file, "--out", "run", *options]) == 1
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said


def test_an_interrupted_train_ends_with_130_and_says_how_to_go_on(file, capsys, monkeypatch):
    monkeypatch.setattr(recorder, "_REPORT_SECONDS", 0)
    monkeypatch.setattr(
        "composer.cli.progress._Lines.__call__",
        lambda self, told: told.step == 3 and os.kill(os.getpid(), signal.SIGINT),
    )
    assert main(["train", file, "--out", "run"]) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"
    monkeypatch.undo()
    assert main(["train", file, "--out", os.path.join(os.path.dirname(file), "run")]) == 0


def test_eval_prints_scores_of_runs_and_files(trained, capsys):
    assert main(["eval", str(trained.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == trained.best
    files = [str(trained.folder), str(trained.folder / "last.ckpt")]
    assert main(["eval", *files, "--json", "--checkpoint", "last"]) == 0
    assert json.loads(capsys.readouterr().out) == dict.fromkeys(files, trained.metrics)


def test_eval_at_other_steps_prints_a_row_for_each(trained, capsys):
    assert main(["eval", str(trained.folder), "--steps", "1,2,4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [name.rpartition(", ")[2] for name in found] == ["1 step", "2 steps", "4 steps"]
    assert list(found.values())[1] == trained.best
    assert main(["eval", str(trained.folder), "--steps", "1,2,4"]) == 0
    assert capsys.readouterr().out.count(str(trained.folder)) == 3


def test_eval_reads_as_many_tokens_as_asked(trained, capsys):
    scores = []
    for option in (["--tokens", "4k"], ["--set", "train.eval.tokens=4k"], ["--tokens", "256"]):
        assert main(["eval", str(trained.folder), "--json", *option]) == 0
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--steps", "many"], 2, "numbers of steps"),
        (["--steps", "0"], 2, "numbers of steps"),
        (["--set", "model.width=32"], 1, "do not fit the model"),
        (["--set", "stages.0.recurr=2"], 1, "did you mean recur"),
        (["--checkpoint", "first"], 2, "checkpoint"),
    ],
)
def test_eval_says_what_is_wrong(trained, capsys, options, code, told):
    assert main(["eval", str(trained.folder), *options]) == code
    assert told in capsys.readouterr().err


def test_eval_of_nothing_is_told(tmp_path, capsys):
    assert main(["eval", str(tmp_path / "nowhere")]) == 1
    assert "no such run or checkpoint" in capsys.readouterr().err
    assert main(["eval", str(tmp_path)]) == 1
    assert "no spec.yaml" in capsys.readouterr().err


def test_a_terminal_gets_a_bar_with_loss_speed_and_time_left(monkeypatch):
    from io import StringIO

    from rich.console import Console

    from composer.cli.progress import shown
    from composer.training.recorder import Progress

    out = StringIO()
    monkeypatch.setattr(
        "rich.console.Console",
        lambda **_: Console(file=out, force_terminal=True, width=120, color_system=None),
    )
    with shown() as show:
        show(Progress(3, 30, 3 * TOKENS, 1.5, 12345.6, 75.0, {"accuracy": 0.25}))
    assert "3/30 loss 1.500  accuracy 0.250  12,346 tokens/s  1:15 left" in out.getvalue()
