"""Stages that start from noise. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.base.fields import Positive
from blocks.base.wiring import Site
from blocks.ir.operation import Value
from blocks.wiring.start import OtherStart


class StartFromNoise(OtherStart):
    """Normal noise, cut off at three standard deviations (Huginn, arXiv 2502.05171); needs an `inject`.

    It is drawn anew for each sequence and optimizer step; in evaluation all sequences get the same.
    """

    name = "noise"
    aliases = "random normal gaussian trunc_normal"

    noise: Positive = 0.4**0.5
    """Standard deviation; the default is the paper's, where embeddings have the same."""

    def summary(self, site: Site) -> str:
        """Give the standard deviation."""
        return f"starts from noise of {self.noise:.3g}"

    def state(self, build: Builder, x: Value) -> Value:
        """Draw noise."""
        from blocks.primitives.random_operations import Noise

        return build.op("start", Noise((build.width,), self.noise), x, build.randomness("start"))
