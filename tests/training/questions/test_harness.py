"""`composer lm-eval`: tasks of lm-evaluation-harness on a run, with local files only."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from composer.cli.main import main
from composer.training.folder.errors import TrainingError
from composer.training.questions.forms import Question
from composer.training.questions.score import score_questions
from composer.training.score import read

QUESTIONS: list[dict[str, Any]] = [
    {"prompt": "the cat is on", "choices": [" the mat", " a hat, and"], "answer": 0},
    {"prompt": "", "choices": ["the cat", "mat"], "answer": 1},
    {"prompt": "is on the", "choices": [" mat.", " dog"], "answer": 0},
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
doc_to_text: "{{{{prompt}}}}"
target_delimiter: ""
metadata: {{version: 1}}
"""
KINDS = {
    "cats": """
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}]
""",
    "said": """
output_type: generate_until
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["."], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
""",
    "whole": """
output_type: loglikelihood_rolling
doc_to_target: "{{prompt}} and {{choices}}, {{choices}}, {{choices}}"
metric_list: [{metric: bits_per_byte}]
""",
    "beams": """
output_type: generate_until
doc_to_target: ""
generation_kwargs: {until: ["."], num_beams: 3}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    pytest.importorskip(
        "lm_eval", reason="lm_eval is not installed: pip install 'attention-composer[lm-eval]'"
    )
    # nothing is looked for in the network, and nothing is left outside
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from composer.training.questions import harness

    # reading the list of the package's own tasks takes 10 s
    monkeypatch.setattr(harness, "TaskManager", partial(harness.TaskManager, include_defaults=False))
    return harness


@pytest.fixture(scope="module")
def run(run: Path) -> Path:
    """The run, with tasks and their questions beside it."""
    folder = run.parent
    (folder / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in QUESTIONS))
    for name, kind in KINDS.items():
        task = TASK.format(name=name, file=folder / "questions.jsonl") + kind
        (folder / f"{name}.yaml").write_text(task)
    return run


def likelihood(model: torch.nn.Module, prompt: str, target: str) -> tuple[float, bool]:
    """The plain formula: one text after the token that documents begin after."""
    before = [*prompt.encode()] or [255]
    tokens = torch.tensor([[*before, *target.encode()]])
    with torch.no_grad():
        scores = F.log_softmax(model(tokens[:, :-1]).double(), -1)[0, len(before) - 1 :]
    wanted = tokens[0, len(before) :]
    return float(scores.gather(1, wanted[:, None]).sum()), bool((scores.argmax(1) == wanted).all())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("steps", [None, 3])
def test_choices_get_the_likelihoods_that_the_model_gives_them(
    harness: Any, run: Path, steps: int | None
) -> None:
    scores = harness.run_tasks(str(run), ["cats"], include=str(run.parent), steps=steps)
    model = read(run).model()
    model.set_steps({"stages.0": steps} if steps else {})
    assert len(scores["samples"]["cats"]) == len(QUESTIONS)
    for sample in scores["samples"]["cats"]:
        pairs = [(sample["doc"]["prompt"], choice) for choice in sample["doc"]["choices"]]
        for got, pair in zip(sample["filtered_resps"], pairs, strict=True):
            value, greedy = likelihood(model, *pair)
            assert float(got[0]) == pytest.approx(value, abs=1e-5)
            assert str(got[1]) == str(greedy)
    asked = [
        Question(each["prompt"], each["choices"][each["answer"]], tuple(each["choices"]))
        for each in QUESTIONS
    ]
    ours = score_questions(model, asked, "multiple-choice", steps)
    assert scores["results"]["cats"]["acc,none"] == pytest.approx(ours.scores["accuracy"])


@pytest.mark.filterwarnings("ignore")
def test_texts_are_generated_up_to_what_ends_them_and_whole_texts_scored_once(
    harness: Any, run: Path
) -> None:
    scores = harness.run_tasks(str(run), ["said", "whole"], include=str(run.parent), limit=3)
    model = read(run).model()
    for sample in scores["samples"]["said"]:
        prompt = [*sample["doc"]["prompt"].encode()] or [255]
        made = model.generate([prompt], 12, temperature=0.0, stop=255)[0].tolist()[len(prompt) :]
        text = bytes(each for each in made if each < 255).decode(errors="replace")
        assert sample["filtered_resps"] == [text.split(".")[0]]
    for sample in scores["samples"]["whole"]:
        text = sample["target"]
        assert len(text) > 48
        # the package's windows: whole ones from the beginning, the last one ends with the text
        first = likelihood(model, "", text[:48])[0]
        rest = sum(
            likelihood(model, text[end - 49 : begin], text[begin:end])[0]
            for begin in range(48, len(text), 48)
            for end in [min(begin + 48, len(text))]
        )
        assert float(sample["filtered_resps"][0]) == pytest.approx(first + rest, abs=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_done_is_refused(harness: Any, run: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"expected until, .* got 'num_beams'"):
        harness.run_tasks(str(run), ["beams"], include=str(run.parent))
    with pytest.raises(TrainingError, match="expected tasks of lm_eval, got none_such"):
        harness.run_tasks(str(run), ["none_such"], include=str(run.parent))
    with pytest.raises(TrainingError, match="folder not found: nowhere"):
        harness.run_tasks(str(run), ["cats"], include="nowhere")
    (tmp_path / "gone.yaml").write_text(TASK.format(name="gone", file="gone.jsonl") + KINDS["cats"])
    with pytest.raises(TrainingError, match=r"--tasks gone: .*gone\.jsonl"):
        harness.run_tasks(str(run), ["gone"], include=str(tmp_path))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("harness")
def test_the_command_prints_the_table_of_the_package_or_json(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["lm-eval", str(run), "--tasks", "cats", "--include-path", str(run.parent), "--limit", "2"]
    assert main([*line, "--json"]) == 0
    # of two questions each counts half
    assert json.loads(capsys.readouterr().out)["cats"]["acc,none"] in (0, 0.5, 1)
    assert main(line) == 0
    assert "|cats" in capsys.readouterr().out


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "composer.training.questions.harness", raising=False)


@pytest.mark.usefixtures("absent")
def test_without_the_package_its_extra_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lm-eval", "run", "--tasks", "cats"]) == 1
    assert "attention-composer[lm-eval]" in capsys.readouterr().err
    assert main(["lm-eval", "run", "--tasks", ","]) == 2
