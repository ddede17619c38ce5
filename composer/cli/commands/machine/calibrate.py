"""`composer calibrate`: measure this machine, for time estimates."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

PANEL = "Costs"
EXAMPLE = "composer calibrate"


def calibrate(
    kind: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option(
            "--device", help="The device to measure. Default: the GPU, if there is one.", show_default=False
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="The name estimates will use. Default: cpu, or the GPU's.", show_default=False),
    ] = None,
) -> None:
    """Measure the rates of this machine in under a minute and store them for this account.

    They are large products in fp32 and bf16, copies, and the overhead of an operation. `composer cost
    --device NAME` and caps on `step_time` go by them.
    """
    import torch

    from composer.cli.terminal.files import make_folder, write
    from composer.costs.base.units import count_text, seconds_text
    from composer.costs.time.calibrate import calibrate as measure
    from composer.costs.time.devices import calibrated_text, calibrations, devices

    kind = kind or ("cuda" if torch.cuda.is_available() else "cpu")
    path = calibrations()
    # check that the result can be stored before spending a minute
    devices()
    make_folder(path.parent)
    device = measure(kind)
    name = name or _name(kind)
    write(str(path), calibrated_text(name, device))
    print(f"{name}, {device.source}")
    print(f"  fp32 products  {count_text(device.fp32)}FLOP/s")
    print(f"  bf16 products  {count_text(device.bf16)}FLOP/s")
    print(f"  copies         {count_text(device.bandwidth)}B/s, read and written")
    print(f"  an operation   {seconds_text(device.overhead)} at least")
    print(f"stored in {path}")


def _name(kind: str) -> str:
    """Return the name of a known device, or one derived from the GPU's name."""
    import torch

    from composer.costs.time.devices import NAMED

    if kind == "cpu":
        return "cpu"
    own = torch.cuda.get_device_name().lower()
    return next((name for name in NAMED if name in own), own.replace(" ", "-"))
