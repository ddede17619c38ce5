"""The key `norm`; each value is a file here. Torch-free."""

from blocks.base.wiring import WiringConfig


class Norm(WiringConfig):
    """The position of the norm of each sublayer."""

    key = "norm"
    owner = ("model", "stage", "use", "parallel")
    default = "pre"
    key_aliases = "norm_position norm_placement layer_norm layernorm norm_first prenorm"
