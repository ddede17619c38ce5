"""Caps: what a spec may cost at most, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from composer.costs.count import Costs, count
from composer.costs.units import amount
from composer.spec.errors import Fault, SpecError
from composer.spec.models import Caps, Spec


@dataclass(frozen=True)
class Excess:
    """One cap that a spec is over.

    Attributes:
        heaviest: the term that weighs most, and its size.
    """

    cap: str
    limit: int
    value: int
    heaviest: tuple[str, int]

    def __str__(self) -> str:
        term, size = self.heaviest
        ratio = self.value / self.limit
        far = f"{100 * (ratio - 1):.3g} % over" if ratio < 3 else f"{ratio:.3g} times the cap"
        over = f"{amount(self.cap, self.value)}, {far}"
        share = f"{100 * size / self.value:.0f} %" if self.value else "0 %"
        return f"{over}; heaviest: {term} with {amount(self.cap, size)} ({share})"


def excesses(spec: Spec, costs: Costs) -> list[Excess]:
    """Return every cap the spec is over, in the order caps are declared."""
    return list(_excesses(spec.caps, costs))


def check_caps(spec: Spec, costs: Costs | None = None) -> Costs:
    """Return the spec's costs.

    Raises:
        SpecError: it is over a cap (says which, by how much, and what weighs most), or caps train_flops
            without a `train` section.
    """
    costs = costs or count(spec)
    faults = [_fault(spec, excess) for excess in excesses(spec, costs)]
    if spec.caps.train_flops is not None and costs.train_flops is None:
        faults.append(spec.fault(("caps", "train_flops"), "a `train` section that says the tokens", "none"))
    if faults:
        raise SpecError(faults)
    return costs


def _excesses(caps: Caps, costs: Costs) -> Iterator[Excess]:
    for cap in type(caps).model_fields:
        limit = getattr(caps, cap)
        value = costs.measure(cap)
        if limit is not None and value is not None and value > limit:
            yield Excess(cap, limit, value, _heaviest(cap, costs))


def _heaviest(cap: str, costs: Costs) -> tuple[str, int]:
    if cap == "train_memory":
        return max(costs.train_memory.terms.items(), key=lambda term: term[1])
    if cap in ("params", "active_params"):
        sizes = {name: getattr(share, cap) for name, share in costs.by_block.items()}
    elif cap == "train_flops":
        sizes = {name: share.forward + share.backward for name, share in costs.by_block.items()}
        scale = (costs.train_flops or 0) / sum(sizes.values())
        sizes = {name: size * scale for name, size in sizes.items()}
    elif cap == "flops_per_token":
        sizes = {name: share.forward for name, share in costs.by_block.items()}
    else:
        sizes = {"keys and values": costs.measure(cap) or 0}
    name, size = max(sizes.items(), key=lambda item: item[1])
    return name, round(size)


def _fault(spec: Spec, excess: Excess) -> Fault:
    return spec.fault(("caps", excess.cap), f"at most {amount(excess.cap, excess.limit)}", str(excess))
