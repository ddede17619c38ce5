"""Text generation: continues prompts token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from composer.costs.base.precision import precision
from composer.costs.counting.count import caches
from composer.language.schema.steps import Steps
from composer.module.batch import as_tokens, check_range
from composer.module.capture.recorder import CudaGraphChoice
from composer.module.core import ModelCore
from composer.module.exits import check_exits
from composer.module.generation.cache_policy import Cache, as_policy
from composer.module.generation.decoder import Decoder
from composer.module.generation.decoding_graph import decoding_graph
from composer.module.generation.finite_logits import FiniteLogits
from composer.module.generation.kept_recordings import replaying
from composer.module.generation.recorded import recorder_for
from composer.module.generation.sampling import Sampler
from composer.module.generation.stop import Stop, as_stop
from composer.module.record import refuse_recording

T = TypeVar("T")

_RECORDED_SIZES = 64
"""Caches of recorded steps have room for a multiple of this, so that recordings fit other prompts too."""


class Generates(ModelCore):
    """Adds `generate` to a model."""

    def generate(
        self,
        tokens: Tensor | Sequence[Tensor | Sequence[int]],
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: Stop = None,
        steps: Steps | None = None,
        exit_threshold: float | None = None,
        seed: int = 0,
        cache: Cache = "full",
        cuda_graph: CudaGraphChoice = "auto",
    ) -> Tensor | list[Tensor]:
        """Return prompts and their continuations.

        Prompts of equal length, int [batch, sequence], give a tensor [batch, sequence + new]; rows that
        stopped early are padded with their last token. A list of prompts of any lengths gives a list of
        tensors [prompt + new] without padding.

        A token is sampled from the softmax of logits / `temperature` (0: greedy decoding), among the `top_k`
        likeliest tokens and the smallest set whose probabilities sum to `top_p`. The sample is a function of
        `seed`, the row and the position. `stop` is one stop token, several, or sequences of tokens. `steps`
        and `exit_threshold` are as in `forward`; tokens that leave early are still computed at all steps.

        The model runs in evaluation mode with a KV cache, so each new token takes one pass over itself alone.
        `cache` selects the steps of recurrent stages that are cached: "full" caches all, which is exact;
        {"budget": k} has k entries, where step i writes entry i modulo k and reads what earlier tokens wrote
        there last; "last_step" has one. Without "full", tokens of prompts are processed one by one too. With
        `cuda_graph` the step after the prompt is recorded as a CUDA graph and replayed for each new token;
        "auto" does so on a GPU for at least 32 new tokens where it works. The last two recordings are kept
        with the model, for later calls with as many rows and about as many tokens.

        Raises:
            ValueError: prompts or stops are empty or not of integers below `model.vocab`, prompt and new
                tokens exceed `model.context`, an option is out of range, or the model has an operation that
                does not run token by token, or not with this cache; `cuda_graph` is on, and cannot be; logits
                are NaN or infinite.
        """
        refuse_recording(self, "generate")
        prompts = as_prompts(tokens, self.device)
        run = Generation(self, prompts, max_new_tokens, Sampler(temperature, top_k, top_p, seed), stop)
        for _ in run.tokens(steps, exit_threshold, cache, cuda_graph):
            pass
        rows = run.rows()
        if not isinstance(tokens, Tensor):
            return rows
        longest = max(map(len, rows), default=0)
        filled = [torch.cat((row, row[-1:].expand(longest - len(row)))) for row in rows]
        return torch.stack(filled) if filled else tokens

    def cache_bytes_per_token(self, cache: Cache = "full", steps: Steps | None = None) -> int:
        """Return the size of the KV cache in bytes per token of `model.context`, as costs count it.

        Raises:
            ValueError: the model does not run token by token with this cache.
        """
        policy = as_policy(cache)

        def counted() -> int:
            graph, context, size = self.plan.graph, self.spec.model.context, precision(self.spec).compute
            decoding = decoding_graph(graph, graph.outputs[0])
            if policy.budget is None:
                return caches(graph, context, size)[0]
            return policy.bytes_per_token(decoding, context, size)

        return _with_steps(self, steps, counted)


class Generation:
    """A batch of prompts that is being continued; each row has its own end.

    Attributes:
        lengths: tokens of each prompt.
        ends: total tokens of each row, 0 while not known.
    """

    def __init__(
        self, model: ModelCore, prompts: list[Tensor], max_new_tokens: int, sampler: Sampler, stop: Stop
    ) -> None:
        """Raise ValueError as in `Generates.generate`."""
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: expected a number from 1, got {max_new_tokens}")
        self.model, self.sampler, self.new = model, sampler, max_new_tokens
        self.lengths = [len(prompt) for prompt in prompts]
        longest = max(self.lengths, default=0) + max_new_tokens
        if longest > model.spec.model.context:
            raise ValueError(
                f"expected at most {model.spec.model.context} tokens (model.context), got prompts of up to "
                f"{longest - max_new_tokens} and {max_new_tokens} new ones"
            )
        self.made = torch.zeros(len(prompts), longest, dtype=torch.int64, device=model.device)
        for row, prompt in zip(self.made, prompts, strict=True):
            check_range(prompt, model.spec.model.vocab, "tokens")
            row[: len(prompt)] = prompt
        self.ends = [0] * len(prompts)
        self._stop = as_stop(stop, model.spec.model.vocab)
        self._finite = FiniteLogits(model, len(prompts), model.device)

    def tokens(
        self,
        steps: Steps | None = None,
        exit_threshold: float | None = None,
        cache: Cache = "full",
        cuda_graph: CudaGraphChoice = "auto",
    ) -> Iterator[list[int]]:
        """Yield, for each position, the rows that got a new token; the tokens are in `made`.

        Prompts of different lengths start at the same position: at each position, rows that are still inside
        their prompt take its token.
        """
        if not self.lengths:
            return
        recorder = recorder_for(cuda_graph, self.made.device, self.new, as_policy(cache).budget)
        capacity = self.made.shape[1]
        if recorder is not None:
            capacity = min(-(-capacity // _RECORDED_SIZES) * _RECORDED_SIZES, self.model.spec.model.context)
        plain = self._decoder(steps, exit_threshold, cache, capacity)
        if recorder is None:
            yield from self._with(plain)
            return
        rows, required = len(self.lengths), cuda_graph == "on"
        with replaying(self.model, plain, rows, recorder, required) as decode:
            yield from self._with(decode)

    def _with(self, decode: Callable[[Tensor], Tensor]) -> Iterator[list[int]]:
        """Yield the same, with the logits of a decoder."""
        start = position = min(self.lengths)
        chunk = self.made[:, :start]
        while not all(self.ends):
            logits = decode(chunk)
            self._finite.note(logits, position)
            following = self.sampler(logits, position)
            continued = [row for row, length in enumerate(self.lengths) if length <= position]
            if len(continued) == len(self.lengths):
                self.made[:, position] = following
            else:
                self.made[continued, position] = following[continued]
            position += 1
            running = [row for row in continued if not self.ends[row]]
            for row in running:
                if position == self.lengths[row] + self.new or self._stops(row, position):
                    self.ends[row] = position
            # a GPU is waited for at the first token, where tokens are read anyway, and at the end
            if position == start + 1 or self._stop or logits.device.type == "cpu" or all(self.ends):
                self.check()
            if running:
                yield running
            chunk = self.made[:, position - 1 : position]

    def _decoder(
        self, steps: Steps | None, exit_threshold: float | None, cache: Cache, capacity: int
    ) -> Decoder:
        model = self.model
        model._choose_for_now()
        return _with_steps(model, steps, lambda: decoder(model, capacity, exit_threshold, cache))

    def check(self) -> None:
        """Raise ValueError if logits so far were NaN or infinite; waits for the device."""
        self._finite.check(self.ends)

    def rows(self) -> list[Tensor]:
        """Return each row up to its end, where it has ended."""
        return [row[:end].clone() for row, end in zip(self.made, self.ends, strict=True)]

    def _stops(self, row: int, position: int) -> bool:
        if not self._stop:
            return False
        new = self.made[row, self.lengths[row] : position]
        return any(new[-len(each) :].tolist() == each for each in self._stop)


def _with_steps(model: ModelCore, steps: Steps | None, make: Callable[[], T]) -> T:
    """Return the result of `make`, called while the model runs other numbers of steps."""
    return make() if steps is None else model._switch.call(model, steps, make)


@torch.no_grad()
def decoder(
    model: ModelCore, capacity: int, exit_threshold: float | None = None, cache: Cache = "full"
) -> Decoder:
    """Return a decoder that computes a model's logits token by token, for at most `capacity` tokens.

    Raises:
        ValueError: the model is sharded, has no exits, or has an operation without a decoding function or one
            that does not support this cache.
    """
    policy = as_policy(cache)
    check_exits(model, exit_threshold)
    if any(getattr(module, "sharded", False) for module in model.modules()):
        raise ValueError("generation: expected a model whose weights are whole, got a sharded one")
    graph = model.plan.on(model.target or model.plan.target, apart=False).graph
    keys = partial(model.randomness.keys, graph, training=False, steps={})
    return Decoder(model, graph, keys, capacity, exit_threshold, policy)


def as_prompts(tokens: Any, device: torch.device) -> list[Tensor]:
    """Return the prompts of a batch, each int64 [length].

    Raises:
        ValueError: a prompt is empty or not an integer tensor.
    """
    expected = (
        "expected an integer tensor [batch, sequence], or a list of prompts, of at least one token each"
    )
    prompts = []
    for each in tokens if isinstance(tokens, Sequence) else as_tokens(tokens):
        try:
            prompt = torch.as_tensor(each)
            prompts.append(as_tokens(prompt[None] if len(prompt) else prompt).to(device)[0])
        except (TypeError, ValueError, IndexError):
            raise ValueError(f"tokens: {expected}, got {each!r} among the prompts") from None
    return prompts
