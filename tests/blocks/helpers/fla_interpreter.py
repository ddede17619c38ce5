"""Runs flash-linear-attention's kernels in Triton's interpreter, and counts their products."""

import gc
from contextlib import contextmanager
from unittest.mock import patch


class _Index(int):
    """An index of a loop, which the kernels convert as if it were compiled."""

    def to(self, dtype):
        return self


def _indices(*bounds):
    return map(_Index, range(*map(int, bounds)))


@contextmanager
def interpreted():
    """Let fla's kernels run in the interpreter, each with its first configuration."""
    from fla.ops.common import chunk_delta_h
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.interpreter import InterpretedFunction

    original = InterpretedFunction.run

    def run(*given, **named):
        # the interpreter keeps the last arguments in a cycle
        gc.collect()
        return original(*given, **named)

    with (
        patch.object(InterpretedFunction, "run", run),
        patch.object(Autotuner, "_bench", lambda *given, **named: [1.0, 1.0, 1.0]),
        patch.object(chunk_delta_h, "range", _indices, create=True),
    ):
        yield


@contextmanager
def products():
    """Collect the FLOPs of each product of two tiles."""
    from triton.runtime.interpreter import InterpreterBuilder

    results, original = [], InterpreterBuilder.create_dot

    def create_dot(builder, a, b, *more):
        results.append(2 * a.data.shape[0] * a.data.shape[1] * b.data.shape[1])
        return original(builder, a, b, *more)

    with patch.object(InterpreterBuilder, "create_dot", create_dot):
        yield results
