"""The key `backprop`; each value is a file here. Torch-free."""

from blocks.base.wiring import WiringConfig


class Backprop(WiringConfig):
    """Through which steps of a stage gradients go."""

    key = "backprop"
    default = "all"
    key_aliases = "truncate truncated_bptt bptt backprop_depth mean_backprop_depth detach"
    recurrent = True
