"""The key `halt`; each value is a file here. Torch-free."""

from blocks.base.wiring import WiringConfig


class Halt(WiringConfig):
    """Whether tokens stop being updated before the last step of a stage, as the stage itself decides."""

    key = "halt"
    default = "none"
    key_aliases = "halting adaptive_computation adaptive_computation_time act ponder"
    recurrent = True
    # inside input injection and step codes, so that what decides is the state that a step reads
    order = 6
