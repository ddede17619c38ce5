"""Points of a space that were trained once, and training that looks up what they came to.

docs/replay/points.csv has a row for each feasible point of a part of docs/replay/space.yaml: its parameters,
and accuracy and loss at each milestone. `record` writes it; `Recorded` reads it.
"""

from __future__ import annotations

import csv
import io
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

from composer import cost
from composer.costs.tracing.traced_cost import measures
from composer.language.parsing.choice import SearchParameter, Value
from composer.language.schema.identity import run_hash
from composer.language.schema.spec import Spec
from composer.language.space import Ask, Space, draw, load_space
from composer.training.folder.files import write_text
from search.compare.rungs import milestones
from search.propose.candidates import Judge
from search.trainer import Step, Trained, train

ROOT = Path(__file__).resolve().parents[1]
POINTS = ROOT / "docs" / "replay" / "points.csv"
SPACE = POINTS.with_name("space.yaml")
SLICE = ("model.width=32", "blocks.seq.kv_heads=1", "blocks.depth.kv_heads=1")
"""The part of the space that is small enough to be trained whole."""
SEARCH = {
    "objectives": "[{maximize: accuracy}]",
    "rungs": "[160k, 320k]",
    "keep": "0.4",
    "baselines": "[]",
    "seeds": "0",
    "lr_sweep": "[]",
}
"""How it is searched, unless told otherwise; the rungs are those at which it was recorded."""
METRICS = ("accuracy", "loss")

Params = dict[str, Value]


def space(**given: str) -> Space:
    """Return the part of the space that was recorded, with fields of its `search:` as given."""
    search = [f"search.{field}={value}" for field, value in {**SEARCH, **given}.items()]
    return load_space(SPACE, [*SLICE, *search])


@cache
def full() -> int:
    """Return the training tokens of a point trained in full."""
    train = space().example().spec.train
    assert train is not None
    return train.tokens


def points(space: Space) -> Iterator[Params]:
    """Yield the answers of every point of a space without ranges of floats."""
    waiting: list[Params] = [{}]
    while waiting:
        fixed = waiting.pop()
        try:
            yield space.tree(_answers(fixed))[0]
        except _Open as question:
            parameter = question.parameter
            answers = parameter.choices or range(int(parameter.low), int(parameter.high) + 1, parameter.step)
            waiting += [{**fixed, parameter.name: answer} for answer in reversed(answers)]


@cache
def feasible() -> dict[str, Params]:
    """Return the answers of every point within the caps, by run hash."""
    whole = space()
    judge = Judge(whole)
    judged = [judge(_answers(params)) for params in points(whole)]
    return {each.identity: each.params for each in judged if each.feasible}


class Recorded:
    """Trains in no time: what a point measures was recorded."""

    def __init__(self) -> None:
        """Read the table, and match its rows with the space."""
        rows = _rows(POINTS)
        known = {key: params for key, params in feasible().items() if _key(params) in rows}
        self.results = {key: rows[_key(params)] for key, params in known.items()}
        whole = space()
        self.costs = {key: measures(cost(whole.point(_answers(each)).spec)) for key, each in known.items()}
        self.pauses = [seen.tokens for seen in next(iter(self.results.values()))]

    def column(self, pause: int) -> list[float]:
        """Return the accuracy of every point at a milestone."""
        return [seen[pause].metrics["accuracy"] for seen in self.results.values()]

    def best(self) -> float:
        """Return the best accuracy of any point trained in full."""
        return max(self.column(-1))

    def __call__(
        self, spec: Spec, folder: Path, until: int | None, report: Callable[[Step], None]
    ) -> Trained:
        """Return what the point measured at the milestone that training to `until` ends at."""
        folder.mkdir(parents=True, exist_ok=True)
        seen = self.results[run_hash(spec)]
        return seen[-1] if until is None else next(each for each in seen if each.tokens >= until)


def record(part: int = 0, parts: int = 1) -> None:
    """Train the feasible points of a part, go on where that stopped, and join the parts when all are done."""
    whole = space()
    chosen = list(feasible().values())
    path = POINTS.with_name(f"points-{part}.csv")
    done = _rows(path) if path.exists() else {}
    for params in chosen[part::parts]:
        if _key(params) in done:
            continue
        done[_key(params)] = _trained(whole, params)
        write_text(path, _text(whole, [params for params in chosen if _key(params) in done], done))
    join(chosen)


def join(chosen: list[Params]) -> None:
    """Write the whole table once every point stands in a part, and remove the parts."""
    parts = sorted(POINTS.parent.glob("points-*.csv"))
    rows = {key: seen for path in parts for key, seen in _rows(path).items()}
    if all(_key(params) in rows for params in chosen):
        write_text(POINTS, _text(space(), chosen, rows))
        for path in parts:
            path.unlink(missing_ok=True)


def outside(count: int) -> list[list[float]]:
    """Train random points of another width, which are not in the table; return accuracy at each milestone."""
    whole = load_space(SPACE, ["model.width=24"])
    judge, rng = Judge(whole), random.Random(0)
    chosen: dict[str, Params] = {}
    while len(chosen) < count:
        judged = judge(lambda parameter: draw(parameter, rng))
        if judged.feasible:
            chosen.setdefault(judged.identity, judged.params)
    measured = [_trained(whole, params) for params in chosen.values()]
    return [[seen[pause].metrics["accuracy"] for seen in measured] for pause in range(len(measured[0]))]


def _trained(whole: Space, params: Params) -> list[Trained]:
    """Train a point, and measure it at the rungs of `SEARCH` and at the end."""
    spec = whole.point(_answers(params)).spec
    rungs = space().search
    assert rungs is not None
    with tempfile.TemporaryDirectory() as folder:
        return [
            train(spec, Path(folder) / "run", tokens, lambda step: None)
            for tokens in milestones(rungs.rungs, spec, {})
        ]


class _Open(Exception):
    """A parameter that has no answer yet."""

    def __init__(self, parameter: SearchParameter) -> None:
        self.parameter = parameter


def _answers(params: Params) -> Ask:
    def ask(parameter: SearchParameter) -> Value:
        if parameter.name not in params:
            raise _Open(parameter)
        return params[parameter.name]

    return ask


def _key(params: Mapping[str, Value]) -> frozenset[tuple[str, str]]:
    return frozenset((name, str(value)) for name, value in params.items())


_Rows = dict[frozenset[tuple[str, str]], list[Trained]]


def _rows(path: Path) -> _Rows:
    """Read a table: columns are parameters, then METRIC@TOKENS."""
    rows: _Rows = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            params = {name: value for name, value in row.items() if "@" not in name and value}
            stops = sorted({int(name.split("@")[1]) for name in row if "@" in name})
            rows[_key(params)] = [
                Trained(stop, {name: float(row[f"{name}@{stop}"]) for name in METRICS}) for stop in stops
            ]
    return rows


def _text(whole: Space, chosen: list[Params], rows: _Rows) -> str:
    names = [parameter.name for parameter in whole.parameters]
    stops = [seen.tokens for seen in rows[_key(chosen[0])]]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, *(f"{metric}@{stop}" for metric in METRICS for stop in stops)])
    for params in chosen:
        seen = rows[_key(params)]
        measured = [f"{each.metrics[metric]:.6g}" for metric in METRICS for each in seen]
        writer.writerow([*(params.get(name, "") for name in names), *measured])
    return out.getvalue()
