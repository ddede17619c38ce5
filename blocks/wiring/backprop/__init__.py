"""The key `backprop`; each value is a file here. Torch-free."""

from blocks.base.wiring import WiringConfig


class Backprop(WiringConfig):
    """The steps of the stage that gradients go through (truncated backpropagation)."""

    key = "backprop"
    default = "all"
    key_aliases = "truncate truncated_bptt bptt backprop_depth mean_backprop_depth detach"
    recurrent = True
