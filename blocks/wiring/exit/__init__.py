"""The key `exit`; each value is a file here. Torch-free."""

from blocks.base.wiring import WiringConfig


class Exit(WiringConfig):
    """Whether tokens may exit the last stage before its last step; trained by `loss: {exit: b}`."""

    key = "exit"
    default = "none"
    key_aliases = "early_exit exit_gate"
    recurrent = True
