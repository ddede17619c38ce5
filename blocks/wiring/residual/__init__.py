"""The key `residual`; each value is a file or folder here. Torch-free."""

from blocks.base.wiring import WiringConfig


class Residual(WiringConfig):
    """The residual connection: how the output of a sublayer enters the residual stream."""

    key = "residual"
    owner = ("model", "stage", "use", "parallel")
    default = "add"
    key_aliases = "residual_connection skip_connection residual_scale residual_multiplier"
