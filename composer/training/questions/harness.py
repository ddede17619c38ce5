"""A trained model for lm-evaluation-harness (the package `lm_eval`), and its tasks run on it.

The package has no plug-in hook: importing this module registers the model there as `composer`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from composer.language.schema.steps import Steps
from composer.training.continuing import Continued, codec_of
from composer.training.folder.errors import TrainingError
from composer.training.questions.score import Text, begin, fitting, scored, set_steps, text_of
from composer.training.score import read

NEW = 256
"""New tokens where a task does not say, as models of the package have it."""
_KNOWN = ("until", "max_gen_toks", "temperature", "do_sample", "top_k", "top_p")


@register_model("composer")
class ComposerLM(LM):  # type: ignore[misc]
    """The weights of a run as a model of lm-evaluation-harness.

    A prompt and what follows it become tokens apart, as in `composer eval --on`.

    Attributes:
        model: the model, on the device that runs use.
    """

    def __init__(self, run: str, checkpoint: Any = "best", steps: Steps | None = None, **_: Any) -> None:
        """Take a run folder or a file of weights, and the numbers of recurrent steps.

        Raises:
            TrainingError: the run cannot be read, or the steps do not fit it.
        """
        super().__init__()
        self.model = read(Path(run), checkpoint).model()
        set_steps(self.model, steps)
        self._codec, self._context = codec_of(self.model), self.model.spec.model.context

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Return of each (prompt, continuation) its log-likelihood in nats, and whether it is the greedy one.

        Raises:
            TrainingError: a continuation is longer than `model.context`.
        """
        pairs = [request.args for request in requests]
        texts = [text_of(self._codec, prompt, target, self._context) for prompt, target in pairs]
        _tell([text.shortened for text in texts])
        return [(-row.loss, row.likeliest == row.tokens) for row in scored(self.model, texts)]

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """Return the log-likelihood of each whole text in nats, in the windows that the package makes.

        Raises:
            TrainingError: the task of the run has no token between documents.
        """
        texts, numbers = [], []
        for number, request in enumerate(requests):
            for window in self._windows(request.args[0]):
                texts.append(window)
                numbers.append(number)
        sums = [0.0] * len(requests)
        for number, row in zip(numbers, scored(self.model, texts), strict=True):
            sums[number] -= row.loss
        return sums

    def _windows(self, text: str) -> list[Text]:
        (first,) = begin(self._codec, text)
        windows = get_rolling_token_windows(self._codec.encode(text), first, self._context, context_len=1)
        return [Text([*a, *b], len(a), 0, False) for a, b in map(make_disjoint_window, windows)]

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Return what the model continues each prompt by, before the first text of `until`.

        Raises:
            TrainingError: the run's data are no text, or a task asks for what the model cannot do.
        """
        if self._codec.tokenizer() is None:
            raise TrainingError(
                f"{self.model.spec.name}: expected a run on text to generate with, not on numbers"
            )
        made, short = [], []
        for prompt, options in (request.args for request in requests):
            how = self._how(options)
            room = self._context - (how.max_new_tokens or 0)
            fits, shortened = fitting(self._codec, prompt, room)
            text = "".join(how.pieces(self.model, fits))
            made.append(text[: min((text.index(each) for each in how.stop if each in text), default=None)])
            short.append(shortened)
        _tell(short)
        return made

    def _how(self, options: dict[str, Any]) -> Continued:
        if unknown := [key for key in options if key not in _KNOWN]:
            raise TrainingError(
                f"generation_kwargs: expected {', '.join(_KNOWN)}, got {', '.join(map(repr, unknown))}"
            )
        new = options.get("max_gen_toks") or min(NEW, max(1, self._context // 4))
        if not 0 < new < self._context:
            raise TrainingError(
                f"max_gen_toks: expected a number below {self._context} (model.context), got {new}"
            )
        stop = options.get("until") or ()
        drawn = options.get("do_sample")
        temperature = 0.0 if drawn is False else float(options.get("temperature", 1.0 if drawn else 0.0))
        return Continued(
            new,
            temperature,
            options.get("top_k"),
            options.get("top_p"),
            [stop] if isinstance(stop, str) else [each for each in stop if each],
        )


def run_tasks(
    run: str,
    tasks: Sequence[str],
    *,
    checkpoint: str = "best",
    steps: Steps | None = None,
    include: str | None = None,
    shots: int | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Run tasks of the package on a run and return what its `simple_evaluate` does.

    `include` is a folder with more tasks; `shots` is how many examples come before a question, `limit` how
    many questions are asked.

    Raises:
        TrainingError: a task is unknown or its data cannot be read, the run cannot be read, or it does not go
            with a task.
    """
    if include is not None and not Path(include).is_dir():
        raise TrainingError(f"--include-path: folder not found: {include}")
    manager = TaskManager(include_path=include)
    if unknown := [task for task in tasks if task not in manager.all_tasks]:
        more = "" if include else "; --include-path FOLDER adds the tasks of a folder"
        raise TrainingError(f"--tasks: expected tasks of lm_eval, got {', '.join(unknown)}{more}")
    arguments = {"run": run, "checkpoint": checkpoint, "steps": steps}
    try:
        return simple_evaluate(  # type: ignore[no-any-return]
            "composer", arguments, [*tasks], num_fewshot=shots, limit=limit, task_manager=manager
        )
    except OSError as error:  # of data that are not there, the network included
        raise TrainingError(f"--tasks {','.join(tasks)}: {error}") from None


def _tell(shortened: Sequence[bool]) -> None:
    if any(shortened):
        warnings.warn(
            f"{sum(shortened):,} of {len(shortened):,} prompts lost their beginning to fit model.context",
            stacklevel=2,
        )
