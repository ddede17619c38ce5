"""Input injection: the stage's input enters again before each step."""

from blocks.wiring.inject.config import AddInput, ConcatInput, NoInjection

__all__ = ["AddInput", "ConcatInput", "NoInjection"]
