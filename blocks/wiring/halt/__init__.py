"""The key `halt`; each value is a file here. Torch-free."""

from blocks.base.wiring import WiringConfig


class Halt(WiringConfig):
    """Whether each token may halt before the last step of the stage, and is not updated after that."""

    key = "halt"
    default = "none"
    key_aliases = "halting adaptive_computation adaptive_computation_time act ponder"
    recurrent = True
    # inside input injection and step codes, so that halting depends on the state that a step reads
    order = 6
