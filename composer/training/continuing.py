"""Text generation with a trained model: yields the continuation of a prompt piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from composer.data.base.codec import Codec, Numbers
from composer.data.base.errors import DataError
from composer.language.schema.steps import Steps
from composer.module.capture.recorder import CudaGraphChoice
from composer.module.generates import Generation, as_prompts
from composer.module.generation.cache_policy import Cache
from composer.module.generation.sampling import Sampler
from composer.module.generation.stop import Stop
from composer.module.model import ComposedModel
from composer.training.evaluate import autocast
from composer.training.folder.errors import TrainingError

NEW = 200
"""Default of `max_new_tokens`."""
_INCOMPLETE = "\ufffd"


@dataclass(frozen=True)
class Continued:
    """Options of a continuation; see `ComposedModel.generate`.

    Attributes:
        max_new_tokens: default: `NEW`, or fewer if the context is full.
        stop: stop texts, or where tokens are numbers, such as "3 1", stop tokens; the continuation ends after
            any of them.
    """

    max_new_tokens: int | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    stop: Sequence[str] = ()
    steps: Steps | None = None
    exit_threshold: float | None = None
    seed: int = 0
    cache: Cache = "full"
    cuda_graph: CudaGraphChoice = "auto"

    def pieces(self, model: ComposedModel, prompt: str) -> Iterator[str]:
        """Yield the continuation of a prompt piece by piece as it is generated.

        It ends before the end-of-document token, if the task has one.

        Raises:
            TrainingError: the model cannot continue the prompt, an option is out of range, or the model's
                logits are NaN or infinite.
            DataError: the prompt is not valid for the task.
        """
        codec = codec_of(model)
        try:
            # tokens after the end of a document belong to the next one
            start = [] if codec.end is None else [codec.end]
            yield from self._pieces(model, codec, codec.encode(prompt) or start)
        except ValueError as error:
            raise TrainingError(f"{model.spec.name}: {error}") from None

    def _pieces(self, model: ComposedModel, codec: Codec, prompt: list[int]) -> Iterator[str]:
        if not prompt:
            raise ValueError("expected a prompt of at least one token, got none")
        room = model.spec.model.context - len(prompt)
        new = self.max_new_tokens or max(1, min(NEW, room))
        sampler = Sampler(self.temperature, self.top_k, self.top_p, self.seed)
        if not all(each.strip() if numbers(codec) else each for each in self.stop):
            raise ValueError("stop: expected at least one token, got an empty text")
        run = Generation(model, as_prompts([prompt], model.device), new, sampler, self._ends(codec))
        new_ones, yielded = run.tokens(self.steps, self.exit_threshold, self.cache, self.cuda_graph), ""
        for position in count(len(prompt)):
            # not while the caller handles a piece
            with autocast(model):
                if next(new_ones, None) is None:
                    break
            made = run.made[0, len(prompt) : position + 1].tolist()
            run.check()
            text = codec.decode([each for each in made if each != codec.end])
            if not numbers(codec) and (cut := self._cut(text)) is not None:
                yield text[len(yielded) : cut]
                return
            if not text.endswith(_INCOMPLETE):
                yield text[len(yielded) :]
                yielded = text
        yield text[len(yielded) :]

    def _ends(self, codec: Codec) -> Stop:
        """Return the tokens that end a continuation: those of stops only where tokens are no text."""
        if not numbers(codec):
            return codec.end
        try:
            return [*map(codec.encode, self.stop)]
        except DataError as error:
            raise ValueError(f"stop: {error}") from None

    def _cut(self, text: str) -> int | None:
        """Return the end of a text after its first stop text, or None."""
        ends = [text.index(each) + len(each) for each in self.stop if each in text]
        return min(ends, default=None)


def numbers(codec: Codec) -> bool:
    """Return whether tokens are written as numbers, so that a part of a text may be a part of a token."""
    return isinstance(codec, Numbers)


def codec_of(model: ComposedModel) -> Codec:
    """Return the codec of the model's task; without a task, tokens are written as numbers."""
    train = model.spec.train
    return Numbers() if train is None else train.data.codec()
