"""Options in all pairs, with every way of training: the gradients of plain training on one process."""

import os
from itertools import islice

import pytest
from cases import DEPTH, EXPERT, FFN, SEQ, tree
from data_parallel import differences
from pairwise import covering
from samples import FULL

from composer.testing.modes import MODES

RANKED = ("DDP", "FSDP")
LOCAL = tuple(way for way in MODES if way != "other numbers of steps")
SEEDS, MOST = (range(4), None) if FULL else (range(1), 40)
SPECS = [each for seed in SEEDS for each in islice(covering([*LOCAL, *RANKED], seed), MOST)]
TRACED = 3
"""How many specs torch traces where not all are run: that takes a second for each."""


def of(*ways):
    by_name = {f"{number}, {way}": (way, plain) for number, (way, plain) in enumerate(SPECS) if way in ways}
    return dict([*by_name.items()][: None if FULL or ways != ("torch.compile",) else TRACED])


CASES = {way: of(way) for way in LOCAL}
ON_RANKS = of(*RANKED)
AT_ONCE = 20
"""How many specs two processes train, one after the other."""


@pytest.mark.parametrize("case", [case for cases in CASES.values() for case in cases])
def test_options_train_in_every_way_as_in_plain_training(case):
    way, plain = CASES[case.partition(", ")[2]][case]
    MODES[way](plain)


@pytest.mark.parametrize("first", range(0, len(ON_RANKS), AT_ONCE))
def test_two_ranks_train_as_one_process(first, tmp_path):
    cases = [*ON_RANKS.items()][first : first + AT_ONCE]
    faults = differences([each for _, each in cases], tmp_path)
    assert {cases[int(number)][0]: fault for number, fault in faults.items()} == {}


NORMED = {**SEQ, "qk_norm": True}
BY_KERNELS = [
    tree(
        {"s": NORMED, "f": FFN},
        {"recur": 2, "step": ["f", {"parallel": ["s", "f"], "combine": "gate"}], "inject": "add"},
        context=3,
    ),
    tree({"s": SEQ, "d": DEPTH, "e": EXPERT}, {"recur": 2, "step": ["s", "d", "e"]}, width=16, context=3),
]
"""Specs whose gradients of projections, gains and experts are added up in fp32 over the steps."""


@pytest.mark.slow
@pytest.mark.parametrize("plain", BY_KERNELS, ids=["projections", "experts"])
def test_two_ranks_train_as_one_process_by_the_kernels_of_a_gpu(plain, tmp_path):
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("kernels are compiled here")
    assert differences([(way, plain) for way in RANKED], tmp_path, kernels=True) == {}
