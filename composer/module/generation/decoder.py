"""A model's code for new tokens, emitted once for a graph and run with weights prepared once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from blocks.ir.graph import Graph, Loop
from blocks.ir.operation import Value
from blocks.ir.walk import Place, operations
from blocks.kernels.past import Past
from blocks.primitives.reference import project
from blocks.wiring.loss.cross_entropy.exit_reference import exit_state
from composer.graph.passes.active_steps import bodies
from composer.module.emission.code import Code, step_code
from composer.module.emission.lookup import gather, held_tensor
from composer.module.emission.stage import Prepared, Stage
from composer.module.generation.cache_policy import CachePolicy
from composer.module.generation.decoding_graph import decoding_graph


class Program:
    """The code of a graph and of the loops in it."""

    def __init__(self, graph: Graph, place: Place) -> None:
        self.graph = graph
        self.loops = {
            name: LoopProgram(operation, place.inside(name, operation))
            for name, operation, _ in operations(graph)
            if isinstance(operation, Loop)
        }

    def weights(self, module: nn.Module) -> list[Any]:
        """Return the weights of a model or layer as the code takes them."""
        return gather(module, self.graph, lambda node, stage: self.loops[node].ready(stage), counts=False)


class LoopProgram:
    """The code of the steps of a loop, and that of the loops in them."""

    def __init__(self, loop: Loop, place: Place) -> None:
        """`place` is the place of the loop's body."""
        self.loop = loop
        self.code = step_code(loop, place, "no")
        self.bodies = [Program(body, place) for body in bodies(loop)]

    def ready(self, stage: Stage) -> Prepared:
        """Return an object that runs the loop with the weights of a stage."""
        weights = (body.weights(layer) for body, layer in zip(self.bodies, stage.sets(), strict=True))
        return Prepared(self.loop, [_Step(self.code, each) for each in weights])


class _Step:
    """The code of one step with its weights."""

    def __init__(self, code: Callable[..., Any], weights: list[Any]) -> None:
        self.code, self.weights = code, weights

    def __call__(self, *values: Any) -> Any:
        return self.code(*values, *self.weights)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _leaves(weights: list[Any]) -> Iterator[Any]:
    """Yield weights one by one, those of loops too."""
    for each in weights:
        if isinstance(each, Prepared):
            for step in each.steps:
                assert isinstance(step, _Step)
                yield from _leaves(step.weights)
        else:
            yield each


@lru_cache(maxsize=4)
def _emitted(graph: Graph, output: Value) -> tuple[Program, Code]:
    made = decoding_graph(graph, output)
    return Program(made, Place()), Code(made, Place(), made.outputs, "Decoder")


class Decoder:
    """Computes the logits of new tokens and updates the cache.

    Attributes:
        past: the cache.
        threshold: the cumulative exit probability at which a token leaves; None for no exits.
        budget: the number of entries that steps share; None for one per step.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        keys: Callable[[Tensor], list[Tensor | bool]],
        capacity: int,
        exit_threshold: float | None,
        policy: CachePolicy,
    ) -> None:
        """Take the weights of a model and one of its graphs.

        Args:
            keys: returns the further inputs for tokens [batch, sequence] (see `Randomness.keys`).
            capacity: the maximum number of tokens.
            exit_threshold: the cumulative exit probability at which a token leaves.
            policy: which steps are cached.

        Raises:
            ValueError: the graph has an operation without a decoding function, or one that does not
                support this cache.
        """
        loss = graph.node("loss")
        program, self.code = _emitted(graph, graph.outputs[0] if exit_threshold is None else loss.inputs[0])
        self._head = [held_tensor(model, name) for name in loss.weights]
        # weakly, since recordings are kept for as long as the model is there
        self._model, self._weights, self._keys = ref(model), program.weights(model), keys
        self.threshold, self.budget = exit_threshold, policy.budget
        self.past = Past(capacity, use_of=policy.sharing(program.graph))

    def weights(self) -> list[tuple[Any, bool]]:
        """Return all that the code reads of the model, each with whether it was prepared from weights."""
        model = self._model()
        assert model is not None
        own = {_storage(each) for each in (*model.parameters(), *model.buffers())}
        read = [*_leaves(self._weights), *self._head]
        return [(each, isinstance(each, Tensor) and _storage(each) not in own) for each in read]

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Return logits [batch, vocab] after the last of new tokens [batch, sequence]."""
        if self.budget is not None:
            # a token reads only the cache of earlier ones, so how they were batched does not matter
            for token in torch.split(tokens, 1, 1)[:-1]:
                self._run(token)
            tokens = tokens[:, -1:]
        return self._run(tokens)

    def _run(self, tokens: Tensor) -> Tensor:
        made = self.following(tokens)
        self.past.position += tokens.shape[1]
        return made

    def following(self, tokens: Tensor) -> Tensor:
        """Return logits [batch, vocab] after the last of new tokens, cached at the current position."""
        made = self.code(tokens, None, *self._keys(tokens), self.past, *self._weights)
        if self.threshold is None:
            logits: Tensor = made[:, -1]
            return logits
        head, gate, bias = self._head
        state = exit_state([each[:, -1:] for each in made], gate, bias, self.threshold)
        return project(state, head, head.shape[:1])[:, -1]
