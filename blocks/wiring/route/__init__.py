"""The key `route`; each value is a file here. Torch-free."""

from blocks.base.wiring import WiringConfig


class Route(WiringConfig):
    """The tokens that run each step."""

    key = "route"
    default = "none"
    key_aliases = "routing router token_routing mixture_of_recursions mixture_of_depths"
    recurrent = True
