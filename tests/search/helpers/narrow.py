"""A space of which about 5 % is feasible, and searches of it in which training is a formula.

    PYTHONPATH=. python tests/search/helpers/narrow.py [SEEDS [SAMPLER ..]]

prints, for each sampler or for some, what became of its drafts and proposals, as Markdown.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study

from composer.language.space import Space, load_space
from search.objectives import Goals
from search.propose.candidates import Candidate, candidate
from search.propose.draft_counts import Drawn, total
from search.propose.feasible import sampler
from search.propose.optuna_adapter import suggest

NARROW = """\
schema: 1
name: narrow
model: {width: {choice: [16, 24, 32, 48, 64, 96]}, vocab: 8, context: 32}
blocks:
  seq: {type: sequence_attention, heads: {choice: [1, 2, 4]}, kv_heads: {choice: [1, 2]}}
  depth: {type: depth_attention, heads: {choice: [2, 4]}, kv_heads: {choice: [1, 2]}}
  expert:
    type: expert_attention
    experts: {choice: [2, 4, 8, 16]}
    active: {int: [1, 4]}
    hidden: {int: [16, 128], step: 16}
stages:
  - recur: {int: [1, 8]}
    step:
      choice:
        plain: [seq, expert]
        dreamer: [seq, depth, expert]
        side: [{parallel: [seq, depth], combine: {choice: [sum, mean, gate]}}, expert]
caps: {params: 18k, flops_per_token: 70k}
train:
  data: {task: hop, length: 32, symbols: 4, hops: 2}
  tokens: 8Ki
  batch_tokens: 1Ki
  lr: {float: [1e-3, 3e-2], log: true}
search:
  objectives: [{maximize: accuracy}]
  trials: 60
"""
TWO = "search.objectives=[{maximize: accuracy}, {minimize: flops_per_token}]"
TRIALS, LATE = 60, 30
SAMPLERS = ("random", "tpe", "nsga2", "gp", "evolution")


def narrow(folder: Path, *overrides: str) -> Space:
    """The space."""
    (folder / "narrow.yaml").write_text(NARROW)
    return load_space(folder / "narrow.yaml", overrides)


def accuracy(result: Candidate) -> float:
    """Grows with parameters and FLOPs; recurrence, the step and the learning rate have their say."""
    step = {"plain": 0.0, "dreamer": 0.5, "side": 0.3}[str(result.params["stages.0.step"])]
    rate = abs(math.log10(float(result.params["train.lr"] or 0)) + 2.2)
    trips = abs(int(result.params["stages.0.recur"] or 0) - 4)
    size = math.log(result.costs["params"]) + 0.5 * math.log(result.costs["flops_per_token"])
    return size + step - 0.5 * rate - 0.1 * trips


@dataclass
class Run:
    """A search without training.

    Attributes:
        proposals: of each how many points were trained before it, and its outcome.
        curve: the best accuracy after each trained point.
    """

    study: Study
    proposals: list[tuple[int, str]] = field(default_factory=list)
    curve: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def refused(self, after: int = 0) -> float:
        """The share of infeasible proposals once `after` points are trained."""
        late = [outcome for trained, outcome in self.proposals if trained >= after]
        return mean(outcome in ("over", "invalid") for outcome in late) if late else math.nan

    def drawn(self, after: int = 0) -> Drawn:
        """The drafts of proposals once `after` points are trained."""
        trials = self.study.get_trials(deepcopy=False)
        pairs = zip(trials, self.proposals, strict=True)
        return total(trial.user_attrs for trial, (trained, _) in pairs if trained >= after)


def explore(space: Space, chosen: BaseSampler, trials: int, most: int = 2000) -> Run:
    """Ask and tell as a search does, until `trials` points are trained or `most` were proposed."""
    assert space.search is not None
    goals = Goals(space.search.objectives)
    run = Run(optuna.create_study(directions=list(goals.directions), sampler=chosen))
    known: dict[str, tuple[float, ...]] = {}
    began = time.monotonic()
    while len(known) < trials and len(run.proposals) < most:
        trial = run.study.ask()
        proposed = candidate(space, partial(suggest, trial))
        outcome: str = proposed.verdict
        trained = len(known)
        if proposed.verdict == "feasible":
            outcome = "repeat" if proposed.identity in known else "feasible"
            values = goals.measured({"accuracy": accuracy(proposed)}, proposed.costs)
            if outcome == "feasible":
                known[proposed.identity] = values
                run.curve.append(max(each[0] for each in known.values()))
            facts = {"run": f"trials/{trained}", "status": "finished", "tokens": 8192}
            for name, value in facts.items():
                trial.set_user_attr(name, value)
        else:
            values = goals.worst(known.values(), proposed.costs)
        trial.set_user_attr("outcome", outcome)
        for name, value in proposed.constraints.items():
            trial.set_constraint(name, value)
        run.study.tell(trial, values)
        run.proposals.append((trained, outcome))
    run.seconds = time.monotonic() - began
    return run


def plain(name: str, seed: int) -> BaseSampler:
    """Optuna's sampler as it is, to which every point is a trial."""
    makers = {
        "random": lambda: RandomSampler(seed=seed),
        "tpe": lambda: TPESampler(seed=seed),
        "nsga2": lambda: NSGAIISampler(seed=seed, population_size=16),
    }
    return makers[name]()


def rows(folder: Path, seeds: int, names: Sequence[str]) -> Iterator[str]:
    """Measure samplers with one objective and with two."""
    names = [name for name in names or SAMPLERS if name != "gp" or find_spec("scipy")]
    for goals in (1, 2):
        for own in (False, True):
            for name in names:
                # Optuna's GP wants the same constraints of each trial, and an invalid point has no costs
                if own or name not in ("gp", "evolution"):
                    runs = [_run(folder, name, goals, own, seed) for seed in range(seeds)]
                    yield _row(name, goals, own, runs)


def _run(folder: Path, name: str, goals: int, own: bool, seed: int) -> Run:
    overrides = [f"search.sampler={name}", f"search.seed={seed}", *([TWO] if goals == 2 else [])]
    space = narrow(folder, *overrides)
    return explore(space, sampler(space) if own else plain(name, seed), TRIALS)


def _row(name: str, goals: int, own: bool, runs: list[Run]) -> str:
    means = [mean(run.refused(after) for run in runs) for after in (0, LATE)]
    drafts = [run.drawn() for run in runs]
    late = [run.drawn(LATE) for run in runs]
    if own:
        shares = [f"{mean(each.share for each in part):.2f}" for part in (drafts, late)]
        costed = mean(each.costed for each in drafts) / TRIALS
    else:
        shares = ["", ""]
        costed = mean(len(run.proposals) for run in runs) / TRIALS
    best = [mean(run.curve[:count][-1] for run in runs) for count in (LATE, len(runs[0].curve))]
    spread = stdev(run.curve[-1] for run in runs) if len(runs) > 1 else 0.0
    each = mean(run.seconds / len(run.proposals) for run in runs)
    cells = [
        name if own else f"{name}, Optuna's own",
        str(goals),
        f"{means[0]:.2f}",
        f"{means[1]:.2f}",
        *shares,
        f"{costed:.1f}",
        f"{best[0]:.2f}",
        f"{best[1]:.2f} ± {spread:.2f}",
        f"{1000 * each:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    print("| sampler | objectives | proposals refused | after 30 | drafts refused | after 30 |", end=" ")
    print("costed per trained | best of 30 | best of 60 | ms per proposal |\n|" + "---|" * 10)
    with TemporaryDirectory() as folder:
        for row in rows(Path(folder), int((sys.argv[1:] or ["5"])[0]), sys.argv[2:]):
            print(row, flush=True)
