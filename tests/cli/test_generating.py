"""`composer generate`: text of bytes as it comes, tokens as numbers, where text ends."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import composer
from composer.cli.main import main
from composer.module.model import ComposedModel
from composer.training.continuing import Continued
from composer.training.folder.errors import TrainingError

TEXT = """
schema: 1
name: bytes
model: {width: 8, vocab: 256, context: 32}
blocks: {seq: {type: sequence_attention, heads: 1}}
stages: [{recur: 2, step: [seq]}]
train: {data: {task: text, path: corpus.txt, length: 32}, tokens: 640, batch_tokens: 64, lr: 1e-3}
"""


def model_that_says(text: bytes, monkeypatch: pytest.MonkeyPatch) -> ComposedModel:
    """A model of bytes whose every prompt of two tokens is continued by a text."""
    from composer.module import generates

    class Told:
        def __init__(self, *_: object) -> None:
            self.position = 0

        def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
            self.position += tokens.shape[1]
            logits = torch.zeros(len(tokens), 256)
            logits[:, text[self.position - 2]] = 50.0
            return logits

    monkeypatch.setattr(generates, "decoder", Told)
    Path("bytes.yaml").write_text(TEXT)
    return composer.compile("bytes.yaml")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text("grüß dich. " * 200)


def test_text_is_told_in_whole_characters_up_to_the_end_of_the_document(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_that_says("grüß 🙂!".encode() + b"\xffmore", monkeypatch)
    assert [*filter(None, Continued().pieces(model, "ab"))] == ["g", "r", "ü", "ß", " ", "🙂", "!"]
    assert "".join(Continued(max_new_tokens=3).pieces(model, "ab")) == "gr\ufffd"
    assert "".join(Continued(stop=["🙂", "ß "]).pieces(model, "ab")) == "grüß "
    # without a prompt a document begins
    assert "".join(Continued(max_new_tokens=1).pieces(model, "")) == "e"


def test_a_trained_model_continues_prompts_on_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("bytes.yaml").write_text(TEXT)
    assert main(["train", "bytes.yaml", "--out", "run"]) == 0
    capsys.readouterr()
    line = ["generate", "run", "--prompt", "gr", "--prompt", "dich", "--max-new-tokens", "6", "--seed", "3"]
    assert main(line) == 0
    plain = capsys.readouterr().out
    assert main([*line, "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert [each["prompt"] for each in output] == ["gr", "dich"]
    assert "".join(f"{each['prompt']}{each['text']}\n" for each in output) == plain
    model = composer.load_run("run")
    made = model.generate([[*b"gr"]], 6, seed=3)[0][2:].tolist()
    text = bytes(made).split(b"\xff")[0].decode(errors="replace")
    assert output[0]["text"] == text
    assert output[0]["cache_bytes_per_token"] == model.plan.costs.cache_bytes_per_token
    assert main([*line, "--json", "--cache", "budget=1"]) == 0
    less = json.loads(capsys.readouterr().out)
    assert less[0]["cache_bytes_per_token"] * 2 == output[0]["cache_bytes_per_token"]
    made = model.generate([[*b"gr"]], 6, seed=3, cache="last_step")[0][2:].tolist()
    assert less[0]["text"] == bytes(made).split(b"\xff")[0].decode(errors="replace")
    assert main([*line, "--cache", "budget=0"]) == 2
    assert "expected full, last_step," in capsys.readouterr().err
    assert main(["generate", "run", "--prompt", "x" * 40]) == 1
    refused = capsys.readouterr()
    assert "at most 32 tokens (model.context)" in refused.err
    assert not refused.out
    monkeypatch.setattr("sys.stdin", io.StringIO("gr\n"))
    assert main([*line[:2], "--prompt", "-", *line[4:]]) == 0
    assert capsys.readouterr().out == plain

    def interrupted(*_: object) -> Iterator[str]:
        yield "a"
        raise KeyboardInterrupt

    monkeypatch.setattr(Continued, "pieces", interrupted)
    assert main([*line[:4]]) == 130
    assert capsys.readouterr().out == "gra\n"
    assert main(["generate", "nowhere", "--prompt", "x"]) == 1
    assert "nowhere" in capsys.readouterr().err


NUMBERS = TEXT.replace(
    "{task: text, path: corpus.txt, length: 32}", "{task: hop, length: 32, symbols: 4, hops: 2}"
)


def test_a_prompt_without_tokens_is_refused() -> None:
    Path("numbers.yaml").write_text(NUMBERS)
    with pytest.raises(TrainingError, match="expected a prompt of at least one token"):
        [*Continued().pieces(composer.compile("numbers.yaml"), " ")]


def test_where_tokens_are_numbers_a_stop_is_whole_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model_that_says(bytes([12, 31, 3, 1, 2]), monkeypatch)
    Path("numbers.yaml").write_text(NUMBERS)
    model = composer.compile("numbers.yaml")
    assert "".join(Continued(5, stop=["1"]).pieces(model, "4 4")) == " 12 31 3 1"
    assert "".join(Continued(5, stop=["2", "31, 3"]).pieces(model, "4 4")) == " 12 31 3"
    for stop, message in (
        ("256", r"stop: expected tokens from 0 to 255 \(model.vocab is 256\), got 256"),
        ("three", "stop: expected tokens as numbers, such as '3 1 4', got 'three'"),
        (" ", "stop: expected at least one token, got an empty text"),
    ):
        with pytest.raises(TrainingError, match=f"bytes: {message}"):
            [*Continued(stop=[stop]).pieces(model, "4 4")]


def test_weights_that_are_not_finite_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("bytes.yaml").write_text(TEXT)
    model = composer.compile("bytes.yaml")
    with torch.no_grad():
        model.get_parameter("embedding").fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"bytes: .* position 2 .* diverged: embed"):
        [*Continued(temperature=0).pieces(model, "ab")]
    with pytest.raises(TrainingError, match="stop: expected at least one token, got an empty text"):
        [*Continued(stop=[""]).pieces(model, "ab")]
