"""The optimizer of `train`."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from blocks.ir.graph import Graph
from blocks.ir.walk import weights
from blocks.wiring.optimizer import OptimizerChoice
from blocks.wiring.optimizer.adamw.optimizer import Rates, Trained
from composer.language.schema.spec import Train
from composer.module.emission.emit import resolve


def make_optimizer(parameters: Iterable[tuple[str, nn.Parameter]], graph: Graph, train: Train) -> Optimizer:
    """Return the optimizer of `train` for parameters, by their names in the graph.

    Raises:
        ValueError: it does not support these parameters, such as Muon with sharded ones.
    """
    known = {name: weight for name, weight, _ in weights(graph)}
    trained = [Trained(known[name], name.startswith("stages."), weight) for name, weight in parameters]
    option = train.option(OptimizerChoice)
    made: Optimizer = resolve(option.maker)(option, trained, Rates(train.lr, train.weight_decay, train.betas))
    return made
