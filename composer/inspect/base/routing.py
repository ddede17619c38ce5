"""The experts that tokens choose, as recorded, and how often chance would choose the same."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

from blocks.expert_attention.batched import BatchedExperts
from blocks.expert_attention.operations import Route
from blocks.ir.operation import Value
from composer.inspect.base.left_out import LeftOut
from composer.inspect.base.subject import Place, Subject


@dataclass(frozen=True)
class Routing:
    """The choices at one place of use of experts.

    Attributes:
        place: where they are.
        steps: what the steps are called.
        chosen: [steps, batch, sequence, active].
        weights: of the chosen, of the same shape.
        experts: how many there are to choose from at one step.
        tied: whether they are the same at all steps.
    """

    place: Place
    steps: list[str]
    chosen: Tensor
    weights: Tensor
    experts: int
    tied: bool

    @property
    def name(self) -> str:
        """The block, by its place."""
        return f"{self.place.path}{self.place.name.rpartition('.')[0]}"

    @property
    def active(self) -> int:
        """How many experts a token chooses at a step."""
        return self.chosen.shape[-1]

    @property
    def pool(self) -> int:
        """How many experts there are in all."""
        return self.experts if self.tied else self.experts * len(self.chosen)


def routings(subject: Subject) -> list[Routing]:
    """Return the choices of all experts of a model.

    Raises:
        LeftOut: it has no experts that tokens choose.
    """
    places = subject.places(Route)
    if not places:
        if subject.places(BatchedExperts):
            raise LeftOut("Its experts have a capacity or choose tokens; which they run is not recorded.")
        raise LeftOut("The model has no block of type expert_attention.")
    names = [[place.named(Value(place.name, output)) for output in (1, 0)] for place in places]
    with subject.recorded(*(name for both in names for name in both)) as recording:
        subject.model(subject.tokens)
    made = []
    for place, (chosen, weights) in zip(places, names, strict=True):
        route = place.graph.node(place.name).op
        assert isinstance(route, Route)
        steps = [".".join(str(number + 1) for number in step) for step in recording.all_steps(chosen)]
        made.append(Routing(place, steps, recording[chosen], recording[weights], route.experts, place.tied))
    return made


def loads(chosen: Tensor, experts: int) -> Tensor:
    """Return the share of the choices [steps, .., active] that each expert has: [steps, experts], float64."""
    flat = chosen.flatten(1)
    counts = flat.new_zeros(len(flat), experts, dtype=torch.float64)
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))
    return counts / flat.shape[1]


def entropy(shares: Tensor) -> Tensor:
    """Return the entropy in nats of shares [.., experts] that add up to 1: [..]."""
    made: Tensor = -torch.special.xlogy(shares, shares).sum(-1)
    return made


def overlap(first: Tensor, second: Tensor) -> float:
    """Return the mean share of a token's experts in `first` [.., active] that are in `second` too."""
    same = (first.unsqueeze(-1) == second.unsqueeze(-2)).any(-1)
    return same.double().mean().item()


def distinct(chosen: Tensor, experts: int) -> float:
    """Return how many different experts a token chooses over all steps, as a mean over tokens.

    chosen: [steps, .., active].
    """
    steps, active = chosen.shape[0], chosen.shape[-1]
    flat = chosen.reshape(steps, -1, active).movedim(1, 0).flatten(1)
    had = torch.zeros(len(flat), experts, dtype=torch.bool, device=flat.device).scatter_(1, flat, True)
    return had.sum(1).double().mean().item()


def distinct_by_chance(experts: int, active: int, steps: int) -> float:
    """Return the expected number of different experts, if each step draws `active` evenly."""
    return experts * (1 - (1 - active / experts) ** steps)


def same_by_chance(experts: int, active: int) -> float:
    """Return how likely two even draws of `active` experts are the same set."""
    return 1 / comb(experts, active)
