"""Scores of a model on questions, also at other numbers of recurrent steps."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from composer.data.base.codec import Codec
from composer.language.schema.steps import Steps, recurrent_place
from composer.module.model import ComposedModel
from composer.training.continuing import NEW, Continued, codec_of, numbers
from composer.training.evaluate import autocast
from composer.training.folder.errors import TrainingError
from composer.training.questions.forms import Question, same_answer

As = Literal["multiple-choice", "loss", "generate"]
_TOKENS = 8192
"""Tokens of one forward pass, about."""


@dataclass(frozen=True)
class Quality:
    """How well a model does on questions.

    Attributes:
        scores: what was measured, by name.
        questions: how many were scored.
        shortened: how many prompts were cut at their beginning to fit `model.context`.
        flops: of the forward pass per token, at the full context.
        steps: the numbers of recurrent steps, by place.
    """

    scores: dict[str, float]
    questions: int
    shortened: int
    flops: int
    steps: dict[str, int]


class Text(NamedTuple):
    """Tokens, of which those from `start` on are scored, and the bytes that they stand for."""

    tokens: list[int]
    start: int
    bytes: int
    shortened: bool


class ScoredText(NamedTuple):
    """What one text got: its loss in nats, how many tokens it has, and how many of them were likeliest."""

    loss: float
    tokens: int
    likeliest: int


def score_questions(
    model: ComposedModel,
    questions: Sequence[Question],
    kind: As,
    steps: Steps | None = None,
    pattern: str = "",
    new_tokens: int | None = None,
) -> Quality:
    """Score a model on questions, with numbers of steps as in `ComposedModel.forward`.

    `multiple-choice` takes the choice with the highest probability after the prompt, as it is and divided by
    its bytes; `loss` is that of the targets after their prompts, or of whole texts; `generate` continues the
    prompt greedily, by at most `new_tokens` (200, or a quarter of the context), and compares the
    last match of `pattern` with the answer.

    Raises:
        TrainingError: the questions do not go with the kind, a target or choice is longer than
            `model.context`, the pattern is none, or the steps do not fit the model.
    """
    numbers = set_steps(model, steps)
    model.set_steps(numbers)
    try:
        match kind:
            case "multiple-choice":
                scores, shortened = _choose(model, questions)
            case "loss":
                scores, shortened = _losses(model, questions)
            case "generate":
                scores, shortened = _generate(model, questions, pattern, new_tokens)
        flops = model.plan.costs.flops_per_token.forward
    finally:
        model.set_steps({})
    return Quality(scores, len(questions), shortened, flops, numbers)


def set_steps(model: ComposedModel, steps: Steps | None) -> dict[str, int]:
    """Have a model run other numbers of steps, and return them by place."""
    try:
        named = {recurrent_place(model.spec): steps} if isinstance(steps, int) else dict(steps or {})
        model.set_steps(named)
    except ValueError as error:
        raise TrainingError(f"{model.spec.name}: --steps: {error}") from None
    return named


def _choose(model: ComposedModel, questions: Sequence[Question]) -> tuple[dict[str, float], int]:
    if plain := next((each for each in questions if not each.choices), None):
        raise TrainingError(
            f"--as multiple-choice: expected questions with choices, got {plain.prompt[:60]!r} without"
        )
    codec, context = codec_of(model), model.spec.model.context
    texts = [text_of(codec, each.prompt, choice, context) for each in questions for choice in each.choices]
    scored_texts = iter(zip(texts, scored(model, texts), strict=True))
    right = right_by_bytes = chance = nats = size = 0.0
    for question in questions:
        number = question.choices.index(question.target)
        rows = [next(scored_texts) for _ in question.choices]
        losses = [row.loss for _, row in rows]
        by_bytes = [row.loss / text.bytes for text, row in rows]
        right += losses.index(min(losses)) == number
        right_by_bytes += by_bytes.index(min(by_bytes)) == number
        chance += 1 / len(rows)
        nats += losses[number]
        size += rows[number][0].bytes
    count = len(questions)
    scores = {
        "accuracy": right / count,
        "accuracy_by_bytes": right_by_bytes / count,
        "chance": chance / count,
        "bits_per_byte": nats / math.log(2) / size,
    }
    return scores, sum(_short(questions, texts))


def _short(questions: Sequence[Question], texts: Sequence[Text]) -> list[bool]:
    """Return of each question whether its prompt was shortened for one of its choices."""
    left = iter(texts)
    choices = ([next(left) for _ in question.choices] for question in questions)
    return [any(text.shortened for text in each) for each in choices]


def _losses(model: ComposedModel, questions: Sequence[Question]) -> tuple[dict[str, float], int]:
    codec, context = codec_of(model), model.spec.model.context
    texts = [text for each in questions for text in _pieces(codec, each.prompt, each.target, context)]
    rows = scored(model, texts)
    nats, tokens = sum(row.loss for row in rows), sum(row.tokens for row in rows)
    scores = {
        "loss": nats / tokens,
        "bits_per_byte": nats / math.log(2) / sum(text.bytes for text in texts),
        "accuracy": sum(row.likeliest for row in rows) / tokens,
    }
    return scores, sum(text.shortened for text in texts)


def _generate(
    model: ComposedModel, questions: Sequence[Question], pattern: str, new_tokens: int | None
) -> tuple[dict[str, float], int]:
    try:
        finds = re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise TrainingError(f"--answer: expected a regular expression, got {pattern!r}: {error}") from None
    if plain := next((each for each in questions if not each.answer), None):
        raise TrainingError(
            f"--as generate: expected questions with answers, got {plain.target[:60]!r} alone"
        )
    codec, context = codec_of(model), model.spec.model.context
    right = answered = short = 0
    new = new_tokens or min(NEW, max(1, context // 4))
    stop = () if numbers(codec) else ("\n\n", "Question:")
    how = Continued(new, temperature=0.0, stop=stop)
    for each in questions:
        prompt, shortened = fitting(codec, each.prompt, max(1, context - new))
        short += shortened
        text = "".join(how.pieces(model, prompt))
        matches = [*finds.finditer(text)]
        if matches:
            last = matches[-1]
            answered += 1
            right += same_answer(last[1] if finds.groups else last[0], each.answer)
    count = len(questions)
    return {"exact_match": right / count, "answered": answered / count}, short


def fitting(codec: Codec, prompt: str, room: int) -> tuple[str, bool]:
    """Return a prompt of at most `room` tokens, and whether it lost its beginning for that."""
    tokens = codec.encode(prompt)
    if len(tokens) <= room:
        return prompt, False
    return codec.decode(tokens[-room:]).lstrip("\ufffd"), True


def text_of(codec: Codec, prompt: str, target: str, context: int) -> Text:
    """Return a prompt and its target, the prompt shortened at its beginning to fit the context."""
    wanted = codec.encode(target)
    before = codec.encode(prompt) or begin(codec, target)
    if not wanted or len(wanted) > context:
        raise TrainingError(
            f"expected targets and choices of 1 to {context} tokens (model.context), got {len(wanted):,}: "
            f"{target[:60]!r}"
        )
    # the last token of the target is only to be predicted
    room = context + 1 - len(wanted)
    kept = before[-room:]
    return Text(kept + wanted, len(kept), len(target.encode()), len(kept) < len(before))


def _pieces(codec: Codec, prompt: str, target: str, context: int) -> list[Text]:
    """Return a prompt and its target; a longer target in windows of the context, each token scored once."""
    wanted = codec.encode(target)
    if prompt and len(wanted) <= context:
        return [text_of(codec, prompt, target, context)]
    before = codec.encode(prompt) or begin(codec, target)
    tokens, shortened = [*before[-1:], *wanted], len(before) > 1
    starts = range(0, len(wanted), context)
    pieces = [Text(tokens[first : first + context + 1], 1, 0, False) for first in starts]
    return [pieces[0]._replace(bytes=len(target.encode()), shortened=shortened), *pieces[1:]]


def begin(codec: Codec, text: str) -> list[int]:
    """Return the token that a document begins after; where a task has none, nothing can come before."""
    if codec.end is None:
        raise TrainingError(f"expected a prompt before {text[:60]!r}, since the task has no end of documents")
    return [codec.end]


def scored(model: ComposedModel, texts: Sequence[Text]) -> list[ScoredText]:
    """Score texts in batches of similar length, and return the results in their own order."""
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number].tokens))
    by_number: dict[int, ScoredText] = {}
    while order:
        size = max(1, _TOKENS // len(texts[order[0]].tokens))
        batch, order = order[:size], order[size:]
        rows = _batch(model, [texts[number] for number in batch])
        by_number.update(zip(batch, rows, strict=True))
    return [by_number[number] for number in range(len(texts))]


@torch.no_grad()
def _batch(model: ComposedModel, texts: Sequence[Text]) -> list[ScoredText]:
    longest = max(len(text.tokens) for text in texts)
    rows = torch.zeros(len(texts), longest, dtype=torch.int64)  # padding comes last, where nothing reads it
    wanted = torch.zeros(len(texts), longest - 1, dtype=torch.bool)
    for number, text in enumerate(texts):
        rows[number, : len(text.tokens)] = torch.tensor(text.tokens)
        wanted[number, text.start - 1 : len(text.tokens) - 1] = True
    rows, wanted = rows.to(model.device), wanted.to(model.device)
    with autocast(model):
        logits: Tensor = model(rows[:, :-1])
    loss = F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
    losses = (loss.view_as(wanted).double() * wanted).sum(1)
    likeliest = ((logits.argmax(-1) == rows[:, 1:]) & wanted).sum(1)
    counts = wanted.sum(1)
    scores = zip(losses.tolist(), counts.tolist(), likeliest.tolist(), strict=True)
    return [ScoredText(*each) for each in scores]
