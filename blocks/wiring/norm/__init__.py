"""The key `norm`; each value is a file here. Torch-free."""

from blocks.base.wiring import WiringConfig


class Norm(WiringConfig):
    """Where each sublayer has its norm."""

    key = "norm"
    owner = ("model", "stage", "use", "parallel")
    default = "pre"
    key_aliases = "norm_position norm_placement layer_norm layernorm norm_first prenorm"
