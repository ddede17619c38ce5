"""Stages that start from noise. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.base.fields import Positive
from blocks.base.wiring import Site
from blocks.ir.operation import Value
from blocks.wiring.start import OtherStart


class StartFromNoise(OtherStart):
    """Normal noise, truncated at three standard deviations (Huginn, arXiv 2502.05171); requires `inject`.

    In training each sequence gets new noise at each optimizer step; in evaluation all get the same noise.
    """

    name = "noise"
    aliases = "random normal gaussian trunc_normal"

    noise: Positive = 0.4**0.5
    """The standard deviation. The default is the paper's, which is also that of its embeddings."""

    def summary(self, site: Site) -> str:
        """Give the standard deviation."""
        return f"starts from noise of {self.noise:.3g}"

    def state(self, build: Builder, x: Value) -> Value:
        """Draw noise."""
        from blocks.primitives.random_operations import Noise

        return build.op("start", Noise((build.width,), self.noise), x, build.randomness("start"))
