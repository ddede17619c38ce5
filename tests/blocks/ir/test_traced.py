"""Traced numbers: a program run on them once is right for all numbers that pass its guards."""

import math
from copy import deepcopy

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from blocks.ir.numbers import largest, smallest, total
from blocks.ir.traced import Trace, Traced
from composer.costs.tracing.codegen import compiled, source

# what a program may do with the numbers x and y; each way in which a value can decide is among them
STEPS = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: 3 - x - y,
    "multiply": lambda x, y: 1 * x * y * 0.5,
    "divide": lambda x, y: x / y,
    "whole": lambda x, y: x // y + 7 // y,
    "rest": lambda x, y: x % y - 7 % y,
    "power": lambda x, y: abs(x) % 5 ** (abs(y) % 3),
    "both": lambda x, y: sum(divmod(x, y)) + sum(divmod(5, y)),
    "negative": lambda x, y: -x + +y,
    "absolute": lambda x, y: abs(x - y),
    "round": lambda x, y: round(x / 3) + round(y / 7, 1),
    "floor": lambda x, y: math.floor(x / 2) + math.ceil(y / 3) + math.trunc(x / 5),
    "largest": lambda x, y: largest(x, 2, y),
    "smallest": lambda x, y: smallest(x, 2.5, y),
    "total": lambda x, y: total([x, y, x]),
    "product": lambda x, y: math.prod((x, 2, y)),
    "less": lambda x, y: x if x < y else 2 * y,
    "at least": lambda x, y: x + 1 if x >= 3 else y,
    "equal": lambda x, y: x if x == y else x - 1,
    "unequal": lambda x, y: x if y != 4 else x + 9,
    "true": lambda x, y: x or y,
    "false": lambda x, y: 1 if not x else y,
    "sorted": lambda x, y: sorted([x, y, 3])[1],
    "maximum": lambda x, y: max(x, y),
    "hash": lambda x, y: {2: 10, x: 20}.get(y, x),
    "member": lambda x, y: x if y in {1, 2, 3} else y,
    "text": lambda x, y: len(str(x)) + len(f"{y:>9}") + y,
    "int": lambda x, y: int(x) + float(y),
    "index": lambda x, y: len(range(int(abs(x)) % 9)) + y,
    "repeat": lambda x, y: len([y] * (int(x) % 4)) + x,
    "type": lambda x, y: x * 2 if isinstance(x, float) else y,
    "method": lambda x, y: x.as_integer_ratio()[0] + y,
}
NUMBERS = st.lists(st.one_of(st.integers(-6, 12), st.sampled_from([0.5, -1.5, 2.0])), min_size=3, max_size=3)


def run(program, numbers):
    results = list(numbers)
    for step, x, y in program:
        results.append(STEPS[step](results[x % len(results)], results[y % len(results)]))
        if abs(results[-1]) > 10**9:
            results[-1] = 1
    return {"last": results[-1], "sum": results[-1] + results[-2]}


@given(
    st.lists(st.tuples(st.sampled_from(list(STEPS)), st.integers(0, 9), st.integers(0, 9)), min_size=1),
    NUMBERS,
    st.lists(NUMBERS, min_size=1, max_size=9),
)
def test_a_traced_program_gives_what_running_it_gives_or_nothing(program, numbers, others):
    trace = Trace()
    leaves = [trace.leaf(str(place), number) for place, number in enumerate(numbers)]
    try:
        results = run(program, leaves)
    except ArithmeticError:
        assume(False)
    again = compiled(trace, leaves, results)
    assert again(numbers) == run(program, numbers)
    for other in others:
        # which numbers are whole is not for guards to tell
        if list(map(type, other)) != list(map(type, numbers)):
            continue
        try:
            got = again(other)
        except ArithmeticError:
            continue
        assert got is None or got == run(program, other)


@pytest.mark.parametrize("step", STEPS)
def test_each_step_is_right_for_all_small_numbers(step):
    pairs = [(x, y) for x in range(-3, 5) for y in range(-3, 5) if y]
    for first in pairs[::5]:
        trace = Trace()
        leaves = [trace.leaf("x", first[0]), trace.leaf("y", first[1])]
        again = compiled(trace, leaves, {"it": STEPS[step](*leaves)})
        assert again(first) == {"it": STEPS[step](*first)}
        for pair in pairs:
            assert again(pair) in (None, {"it": STEPS[step](*pair)})


def test_arithmetic_alone_needs_no_guard_and_equal_expressions_are_one():
    trace = Trace()
    x, y = trace.leaf("x", 6), trace.leaf("y", 4)
    assert math.prod((x, y)) is x * y
    assert (x * y == x * y) is True
    largest(x, smallest(y, 3)) / 2 + round(x / y)
    assert deepcopy(x) is x
    assert not trace.guards


def test_numbers_of_another_kind_are_another_expression():
    trace = Trace()
    x = trace.leaf("x", 3)
    assert x * 2 is not x * 2.0
    assert isinstance((x * 2.0).value, float)


def test_a_traced_number_passes_for_its_kind_but_not_through_arithmetic():
    x = Trace().leaf("x", 3)
    assert isinstance(x, int)
    assert not isinstance(x, float)
    assert type(2.5 * x) is Traced


def test_the_largest_of_the_largest_is_asked_for_once():
    trace = Trace()
    x, y = trace.leaf("x", 3), trace.leaf("y", 4)
    value = largest(largest(x, 2 * y) + 1, largest(x, y, largest(5, y)), smallest(y, largest(x, 1) - x))
    code = source(trace, [x, y], {"it": value})
    assert "max(max(a0, 2 * a1) + 1, a0, a1, 5, a1, min(a1, max(a0, 1) - a0))" in code
    assert compiled(trace, [x, y], {"it": value})((3, 4)) == {"it": value.value}


def test_a_long_sum_is_written_without_deep_nesting():
    trace = Trace()
    leaves = [trace.leaf(str(n), n) for n in range(3000)]
    value = total([n * 2 for n in leaves])
    for leaf in leaves:
        value = leaf - value
    assert compiled(trace, leaves, {"it": value})(range(3000)) == {"it": value.value}
