"""The key `start`; each value is a file here. Torch-free."""

from collections.abc import Iterator

from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.wiring import Run, Site, WiringConfig
from blocks.ir.operation import Value


class Start(WiringConfig):
    """The state that the first step reads."""

    key = "start"
    default = "input"
    key_aliases = "initial_state state_init init_state h0 s0"
    recurrent = True
    # outside of options that widen the state, such as residual streams
    order = -20


class OtherStart(Start):
    """Base class of first states that do not depend on the stage's input, which must then be injected."""

    def problems(self, site: Site) -> Iterator[Problem]:
        """Refuse a stage that would never read its input."""
        inject = site.wiring.get("inject")
        if inject is not None and inject.name == "none":
            expected = "input beside inject: none, since the steps would never read the stage's input"
            yield Problem("", expected, self.name)

    def state(self, build: Builder, x: Value) -> Value:
        """Return the first state [width]; `x` is the stage's input."""
        raise NotImplementedError

    def around_loop(self, build: Builder, x: Value, run: Run) -> Value:
        """Start from another state."""
        x = self.state(build, x)
        build.next.custom_start = True
        x = run(x)
        build.next.custom_start = False
        return x
