"""The key `per_step`; its values are in `config.py`. Torch-free."""

from blocks.wiring.per_step.config import LoraPerStep, NormPerStep, NothingPerStep, ScalePerStep

__all__ = ["LoraPerStep", "NormPerStep", "NothingPerStep", "ScalePerStep"]
