"""The key `inject`; each value is a file here. Torch-free."""

from blocks.base.wiring import WiringConfig


class Inject(WiringConfig):
    """Input injection: how the stage's input enters each step."""

    key = "inject"
    default = "none"
    key_aliases = "input_injection injection inject_input reinject skip"
    recurrent = True
