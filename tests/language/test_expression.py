"""`${}` knows names, numbers, + - * // and parentheses, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spec_texts import TINY

from composer.language.load import loads
from composer.language.parsing.expression import ExpressionError, parse
from composer.language.parsing.resolve import Resolver
from composer.language.parsing.yaml12 import read
from composer.settings.errors import SpecError


def resolved(let: str, value: str) -> Any:
    resolver = Resolver(read(let, "x").value)  # type: ignore[arg-type]
    node = resolver.resolve(read(value, "x"), "value")
    return [str(fault) for fault in resolver.faults] or node.plain


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> str:
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(["a", "b", "7", "2", "-3"]))
    left, right = draw(expressions(depth=depth - 1)), draw(expressions(depth=depth - 1))
    text = f"{left} {draw(st.sampled_from(['+', '-', '*', '//']))} {right}"
    return f"({text})" if draw(st.booleans()) else text


@given(expressions())
def test_arithmetic_is_pythons(text: str) -> None:
    names = {"a": 5, "b": -4}
    try:
        expected = eval(text, {}, names)
    except ZeroDivisionError:
        with pytest.raises(ExpressionError, match="a divisor other than 0"):
            parse(text)(names.__getitem__)
        return
    assert parse(text)(names.__getitem__) == expected


@pytest.mark.parametrize(
    ("let", "value", "result"),
    [
        ("{w: 64}", "${w}", 64),
        ("{w: 64}", "${ w // 3 }", 21),
        ("{w: 64, h: '${w * 2}'}", "${h + 1.5}", 129.5),
        ("{w: 4Ki}", "${w // 2}", 2048),
        ("{w: 4Ki}", "${w}", "4Ki"),
        ("{w: true}", "${w}", True),
        ("{w: [1, 2]}", "${w}", (1, 2)),
        ("{w: 64}", "width-${w}-${w // 2}", "width-64-32"),
        ("{w: 64}", "$${w} is ${w}", "${w} is 64"),
        ("{w: {x: '${v}'}, v: 3}", "${w}", {"x": 3}),
    ],
)
def test_references_keep_types_and_fill_texts(let: str, value: str, result: Any) -> None:
    assert resolved(let, f"'{value}'") == result


@pytest.mark.parametrize(
    ("let", "value", "message"),
    [
        ("{width: 64}", "${widht}", "a name from `let`, got 'widht' (did you mean width?)"),
        ("{w: '${v}', v: '${w}'}", "${w}", "need themselves, got w -> v -> w"),
        ("{w: '${w}'}", "${w}", "need themselves, got w -> w"),
        ("{w: 0}", "${4 // w}", "a divisor other than 0, got 4 // 0"),
        ("{w: wide}", "${w + 1}", "a number for +, got 'wide'"),
        ("{w: true}", "${w + 1}", "a number for +, got true"),
        ("{w: [1]}", "${w + 1}", "a number for +, got [1]"),
        ("{w: [1]}", "x${w}", "a single value inside text, got [1]"),
        ("{w: 1}", "${w / 2}", "names, numbers and + - * // in ${...}"),
        ("{w: 1}", "${w ** 2}", "a name or number, got '*'"),
        ("{w: 1}", "${w.real}", "names, numbers"),
        ("{w: 1}", "${w[0]}", "names, numbers"),
        ("{w: 1}", "${w(1)}", "an operator"),
        ("{w: 1}", "${__import__}", "a name from `let`"),
        ("{w: 1}", "${}", "a name or number, got nothing"),
        ("{w: 1}", "${(w}", "a closing parenthesis"),
        ("{w: 1}", "${w", "a closing } after ${"),
        ("{w: 1}", "${" + "(" * 90 + "w" + ")" * 90 + "}", "at most 20 levels"),
        ("{w: 1}", "${" + "w+" * 200 + "w}", "at most 200 characters"),
        ("{w: 1000000000}", "${w * w * w}", "a result up to 1e18"),
    ],
)
def test_what_cannot_be_worked_out_is_refused(let: str, value: str, message: str) -> None:
    (fault,) = resolved(let, f"'{value}'")
    assert message in fault


def test_a_broken_name_is_reported_once_and_nothing_that_follows_from_it() -> None:
    text = TINY.replace("width: 64", "width: '${w}'").replace("hidden: 64", "hidden: '${w // 2}'")
    with pytest.raises(SpecError) as caught:
        loads(text + "let: {w: '${v}'}\n", "x.yaml")
    assert [str(fault).split("  ")[0] for fault in caught.value.faults] == ["x.yaml:16:10"]
