"""`composer eval RUN --on FILE`: choices, losses and answers against plain formulas, in each form of file."""

import gzip
import json
import math
from pathlib import Path

import pytest
import torch

import composer
from composer.cli.main import main
from composer.data.base.errors import DataError
from composer.training.folder.errors import TrainingError
from composer.training.questions.forms import FORMS, Question, same_answer
from composer.training.questions.read import read_questions
from composer.training.questions.score import score_questions
from composer.training.run import run_training
from composer.training.score import read

# an example of each form as its authors publish it, and what it asks
ENTRIES = {
    "gsm8k": (
        {"question": "Two and two?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"},
        Question("Question: Two and two?\nAnswer:", " 2 + 2 = <<2+2=4>>4\n#### 4", answer="4"),
    ),
    "math": (
        {"problem": "Half of 1?", "solution": "It is $\\boxed{\\frac{1}{2}}$.", "level": "Level 1"},
        Question("Question: Half of 1?\nAnswer:", " It is $\\boxed{\\frac{1}{2}}$.", answer="\\frac{1}{2}"),
    ),
    "mmlu": (
        {"question": "Odd?", "choices": ["2", "3", "4", "6"], "answer": 1, "subject": "x"},
        Question(
            "Question: Odd?\nA. 2\nB. 3\nC. 4\nD. 6\nAnswer:", " 3", (" 2", " 3", " 4", " 6"), answer="B"
        ),
    ),
    "mathqa": (
        {"Problem": "1 000 - 1 ?", "options": "a ) 999 , b ) 1,001 , c ) none", "correct": "b"},
        Question(
            "Question: 1 000 - 1 ?\nA. 999\nB. 1,001\nC. none\nAnswer:",
            " 1,001",
            (" 999", " 1,001", " none"),
            answer="B",
        ),
    ),
    "aqua": (
        {"question": "Sum?", "options": ["A)$61", "B) 65"], "rationale": "", "correct": "A"},
        Question("Question: Sum?\nA. $61\nB. 65\nAnswer:", " $61", (" $61", " 65"), answer="A"),
    ),
    "svamp": (
        {"Body": "Jack has 8 pens", "Question": "How many?", "Answer": 8.0, "Equation": "8"},
        Question("Question: Jack has 8 pens. How many?\nAnswer:", " 8", answer="8"),
    ),
}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def nll(model, prompt, target):
    """The loss of a target after a prompt, from one forward pass of its own."""
    before, after = list(prompt.encode()) or [255], list(target.encode())
    logits = model(torch.tensor([(before + after)[:-1]])).log_softmax(-1)[0]
    return -sum(float(logits[len(before) - 1 + n, token]) for n, token in enumerate(after))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "plain"])
def test_entries_of_each_form_are_read_by_name(form, tmp_path):
    entry, expected = ENTRIES[form]
    lines = tmp_path / "q.jsonl.gz"
    lines.write_bytes(gzip.compress((json.dumps(entry) + "\n\n").encode()))
    listed = tmp_path / "q.json"
    listed.write_text(json.dumps([entry, entry]))
    assert read_questions(lines, form) == [expected]
    assert read_questions(listed, form) == [expected] * 2
    assert read_questions(listed, form, limit=1) == [expected]


def test_choices_are_scored_by_their_probability_with_and_without_their_length(run):
    model = read(run).model()
    asked = [
        Question("the cat is", " on the mat", (" on the mat", "!")),
        Question("the cat is", "!", (" on the mat", "!", "?")),
        Question("on the", " dog", (" mat. the cat", " dog")),
    ]
    for steps in (None, 1, 3):
        scores = score_questions(model, asked, "multiple-choice", steps)
        model.set_steps({} if steps is None else {"stages.0": steps})
        plain = [[nll(model, each.prompt, choice) for choice in each.choices] for each in asked]
        size = [[len(choice) for choice in each.choices] for each in asked]
        model.set_steps({})
        right = [each.choices.index(each.target) for each in asked]
        by_bytes = [
            [loss / n for loss, n in zip(*pair, strict=True)] for pair in zip(plain, size, strict=True)
        ]
        bits = sum(losses[n] for losses, n in zip(plain, right, strict=True)) / math.log(2)
        assert scores.scores == pytest.approx(
            {
                "accuracy": sum(a.index(min(a)) == n for a, n in zip(plain, right, strict=True)) / 3,
                "accuracy_by_bytes": sum(a.index(min(a)) == n for a, n in zip(by_bytes, right, strict=True))
                / 3,
                "chance": (1 / 2 + 1 / 3 + 1 / 2) / 3,
                "bits_per_byte": bits / sum(len(each.target) for each in asked),
            },
            rel=1e-5,
        )
    assert scores.flops > score_questions(model, asked, "multiple-choice", 1).flops


def test_losses_count_targets_after_prompts_and_whole_texts_once(run):
    model, long = read(run).model(), "the cat is on the mat. " * 5
    asked = [Question("the cat", " is on"), Question("", long), Question("x" * 60, " mat")]
    scores = score_questions(model, asked, "loss")
    after = score_questions(model, [Question("say it", long)], "loss")
    begun = score_questions(model, [Question("t", long)], "loss")
    assert (after.scores, after.shortened, begun.shortened) == (begun.scores, 1, 0)
    pieces = nll(model, "the cat", " is on") + nll(model, "x" * 45, " mat")
    tokens = [255, *long.encode()]
    for first in range(0, len(tokens) - 1, 48):
        window = tokens[first : first + 49]
        logits = model(torch.tensor([window[:-1]])).log_softmax(-1)[0]
        pieces -= sum(float(logits[n, token]) for n, token in enumerate(window[1:]))
    count = 6 + len(long) + 4
    assert scores.scores["loss"] == pytest.approx(pieces / count, rel=1e-5)
    assert scores.scores["bits_per_byte"] == pytest.approx(pieces / count / math.log(2), rel=1e-5)
    assert (scores.questions, scores.shortened) == (3, 1)


def test_generated_answers_are_compared_by_the_pattern(run):
    model = read(run).model()
    asked = [Question("the cat is on ", "x", answer="the"), Question("the cat is on ", "x", answer="a")]
    scores = score_questions(model, asked, "generate", None, r"(\w+)$", new_tokens=3)
    assert scores.scores == {"exact_match": 0.5, "answered": 1.0}
    none = score_questions(model, asked, "generate", None, r"\d+", new_tokens=3)
    assert none.scores == {"exact_match": 0.0, "answered": 0.0}


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ("1,200", "1200", True),
        ("$ 18.", "18", True),
        ("8", "8.0", True),
        ("B", "C", False),
        ("a b", "ab", True),
    ],
)
def test_answers_are_compared_as_numbers_or_text(found, wanted, same):
    assert same_answer(found, wanted) is same


def test_the_command_prints_a_table_and_draws_scores_against_steps(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    file, plot = tmp_path / "q.jsonl", tmp_path / "q.svg"
    asked = {"prompt": "the cat is", "choices": [" on the mat", "!!!!!!!!!!!"], "answer": 0}
    file.write_text(json.dumps(asked) + "\n")
    options = ["--on", str(file), "--as", "multiple-choice", "--steps", "1,2,4"]
    assert main(["eval", str(run), *options, "--plot", str(plot)]) == 0
    output = capsys.readouterr().out
    assert "multiple-choice on 1 questions" in output
    assert "2 steps, as trained" in output
    assert "chance" in output
    drawn = plot.read_text()
    assert "FLOPs per token" in drawn
    assert "trained" in drawn
    assert main(["eval", str(run), *options, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["steps"] for row in rows] == [1, 2, 4]
    assert {row["accuracy"] for row in rows} == {1.0}


@pytest.mark.parametrize(
    ("line", "form", "message"),
    [
        ("{", "plain", r":1: not JSON"),
        ("3", "plain", "expected an object, got int"),
        ('{"question": "x", "options": ["A)1", "B)2"], "correct": "A"}', "plain", "--form aqua has such"),
        ('{"question": "x", "answer": "4"}', "gsm8k", "an `answer` that ends in ####"),
        ('{"question": "x", "answer": "4"}', "svamp", "field 'Body' of form svamp, got question, answer"),
        ('{"prompt": "x", "choices": ["a", "b"], "answer": 2}', "plain", "the number of one, from 0, got 2"),
        (
            '{"question": "x", "options": ["A)1", "B)2"], "correct": "C"}',
            "aqua",
            "one of 2 choices, got number 2",
        ),
        ("", "plain", "expected questions, got an empty file"),
        ("{}", "arc", "--form: expected one of plain, gsm8k"),
    ],
)
def test_other_entries_are_refused_with_their_place(line, form, message, tmp_path):
    (tmp_path / "q.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        read_questions(tmp_path / "q.jsonl", form)


def test_questions_that_do_not_go_with_what_is_asked_are_refused(run, tmp_path, capsys):
    model, plain = read(run).model(), [Question("a", "b")]
    for kind, message in [
        ("multiple-choice", "expected questions with choices"),
        ("generate", "with answers"),
    ]:
        with pytest.raises(TrainingError, match=message):
            score_questions(model, plain, kind)
    with pytest.raises(TrainingError, match="1 to 48 tokens"):
        score_questions(model, [Question("a", "b" * 49, ("b" * 49, "c"))], "multiple-choice")
    with pytest.raises(TrainingError, match="--answer: expected a regular expression"):
        score_questions(model, [Question("a", "b", answer="b")], "generate", None, "(")
    for arguments in (["--on", "x"], ["--as", "loss"], ["--on", "x", "--as", "loss", "--tokens", "1k"]):
        assert main(["eval", str(run), *arguments]) == 2
        assert "--on" in capsys.readouterr().err


def test_texts_for_a_model_of_numbers_are_refused_with_the_file_and_the_run(tmp_path, capsys):
    settings = ["train.tokens=2400", "train.eval.tokens=2400"]
    with torch.enable_grad():
        run_training(
            composer.load(Path(__file__).parents[3] / "specs/dreamer-tiny.yaml", settings), tmp_path / "run"
        )
    (tmp_path / "q.jsonl").write_text('{"text": "the cat"}')
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), "--on", str(tmp_path / "q.jsonl"), "--as", "loss"]) == 1
    output = capsys.readouterr().err
    assert "q.jsonl: " in output
    assert "'the cat'" in output
