import json
import os
import re
import signal
from io import StringIO

import pytest
from rich.console import Console
from runs import SPEC, TOKENS, contents, spec

from composer.cli.main import main
from composer.cli.terminal.progress import shown
from composer.training import recorder
from composer.training.folder.metrics import held_out
from composer.training.folder.run_folder import default_folder
from composer.training.recorder import Progress
from composer.training.run import run_training
from composer.training.speed import Speed


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
    steps = [line for line in lines if line.startswith("step 5/5")]
    assert len(steps) == 1
    assert re.fullmatch(
        r"step 5/5  train loss [\d.]+(  [\d,]+ tokens/s)?  held-out loss [\d.]+, accuracy [\d.]+", steps[0]
    )
    assert "held-out scores on 16 sequences after 1,280 tokens" in lines
    assert any(line.split()[:1] == ["best"] for line in lines)
    assert any(f"composer eval {folder}" in line for line in lines)
    assert contents(folder)
    assert main(["train", file, "--set", "train.tokens=1280"]) == 0
    assert "this run is already finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["caps.params=10"], "caps.params: expected at most 10"),
        (["train=null"], "`train` section"),
        (["train.data={task: text, path: nowhere.txt, length: 16}", "model.vocab=256"], "nowhere.txt"),
        (["train.lr=1e30", "train.schedule={warmup: 0, stable: 0.8, decay: 0.2}"], "learning rate 1e+30"),
    ],
)
def test_what_a_user_can_put_right_ends_with_1_and_a_word(file, capsys, settings, message):
    options = [option for setting in settings for option in ("--set", setting)]
    assert main(["train", file, "--out", "run", *options]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_an_interrupted_train_ends_with_130_and_says_how_to_go_on(file, capsys, monkeypatch):
    monkeypatch.setattr(recorder, "_REPORT_SECONDS", 0)
    monkeypatch.setattr(
        "composer.cli.terminal.progress._Lines.__call__",
        lambda self, message: message.step == 3 and os.kill(os.getpid(), signal.SIGINT),
    )
    assert main(["train", file, "--out", "run"]) == 130
    assert capsys.readouterr().err == "stopped; run the same command to resume\n"
    monkeypatch.undo()
    assert main(["train", file, "--out", os.path.join(os.path.dirname(file), "run")]) == 0


def told_of(scores):
    return held_out(scores) | {"held_out_sequences": 16}


def test_eval_prints_scores_of_runs_and_files(trained, capsys):
    assert main(["eval", str(trained.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == told_of(trained.best)
    files = [str(trained.folder), str(trained.folder / "last.ckpt")]
    assert main(["eval", *files, "--json", "--checkpoint", "last"]) == 0
    assert json.loads(capsys.readouterr().out) == dict.fromkeys(files, told_of(trained.metrics))


def test_eval_at_other_steps_prints_a_row_for_each(trained, capsys):
    assert main(["eval", str(trained.folder), "--steps", "1,2,4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [name.rpartition(", ")[2] for name in report] == ["1 step", "2 steps", "4 steps"]
    flops = [one.pop("flops_per_token") for one in report.values()]
    assert flops[1] - flops[0] < flops[2] - flops[1]  # depth attention reads more slots at each step
    assert list(report.values())[1] == told_of(trained.best)
    assert main(["eval", str(trained.folder), "--steps", "stages.0=4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**list(report.values())[2], "flops_per_token": flops[2]}
    assert main(["eval", str(trained.folder), "--steps", "1,2,4"]) == 0
    assert (out := capsys.readouterr().out).count(str(trained.folder)) == 3
    assert out.startswith("held-out scores on 16 sequences\n")


def test_eval_reads_as_many_tokens_as_asked(trained, capsys):
    scores = []
    for option in (["--tokens", "4k"], ["--set", "train.eval.tokens=4k"], ["--tokens", "256"]):
        assert main(["eval", str(trained.folder), "--json", *option]) == 0
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--steps", "many"], 2, "numbers of steps"),
        (["--steps", "0"], 2, "numbers of steps"),
        (["--steps", "2", "--steps", "3"], 2, "expected each stage once"),
        (["--steps", "stages.1=2"], 1, "expected the place of a stage, such as stages.0, got stages.1"),
        (["--set", "model.width=32"], 1, "do not fit the model"),
        (["--set", "stages.0.recurr=2"], 1, "did you mean recur"),
        (["--checkpoint", "first"], 2, "checkpoint"),
    ],
)
def test_eval_says_what_is_wrong(trained, capsys, options, code, message):
    assert main(["eval", str(trained.folder), *options]) == code
    assert message in capsys.readouterr().err


def test_eval_of_nothing_is_told(tmp_path, capsys):
    assert main(["eval", str(tmp_path / "nowhere")]) == 1
    assert ", expected a run folder or a checkpoint" in capsys.readouterr().err
    assert main(["eval", str(tmp_path)]) == 1
    assert "no spec.yaml" in capsys.readouterr().err


def test_a_terminal_gets_a_bar_with_figures_named_apart_speed_and_time_left(monkeypatch):
    out = StringIO()
    monkeypatch.setattr(
        "rich.console.Console",
        lambda **_: Console(file=out, force_terminal=True, width=80, color_system=None),
    )
    with shown() as show:
        show(Progress(3, 30, 3 * TOKENS, 1.5, 12345.6, 75.0, {"loss": 1.75, "accuracy": 0.25}))
    with shown() as show:
        show(Progress(30, 30, 30 * TOKENS, 1.25, 12345.6, 0.0, {"loss": 1.5, "accuracy": 0.5}))
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert "3/30 train loss 1.500  12,346 tokens/s  1:15 left" in text
    assert re.search(r"\n +held-out loss 1\.750, accuracy 0\.250", text)
    assert "30/30 train loss 1.250  12,346 tokens/s" in text
    assert "0:00 left" not in text


def test_without_a_terminal_each_evaluation_stands_on_one_line(capsys):
    first, second = {"loss": 1.75, "accuracy": 0.25}, {"loss": 1.5, "accuracy": 0.5}
    before = {"loss": 2.0, "accuracy": 0.125}
    reports = [(0, None, before), (1, 2.0, before), (2, 1.5, first), (3, 1.25, first), (4, 1.0, second)]
    with shown() as show:
        for step, loss, scores in [*reports, reports[-1]]:
            show(Progress(step, 4, step * TOKENS, loss, held_out=scores))
    assert capsys.readouterr().out.splitlines() == [
        "step 0/4  starting",
        "step 2/4  train loss 1.500  held-out loss 1.750, accuracy 0.250",
        "step 4/4  train loss 1.000  held-out loss 1.500, accuracy 0.500",
    ]


def test_speed_is_of_training_alone_and_the_time_left_is_not():
    now = [100.0]
    speed = Speed(lambda: now[0])
    speed.at(0)
    assert speed.tokens_per_second is speed.seconds_for(10) is None
    now[0] += 2  # training
    with speed.paused():
        now[0] += 6  # an evaluation
    speed.at(1000)
    assert speed.tokens_per_second == 500
    assert speed.seconds_for(1000) == 8
