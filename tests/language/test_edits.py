"""Edits of structure: what each kind does, and that whatever it gives is another valid spec."""

from copy import deepcopy

import pytest
from cases import FFN, SEQ, tree
from hypothesis import given
from hypothesis import strategies as st
from samples import samples
from strategies import make, trees

from composer.language.edits import EDITS, PLACES, edited
from composer.language.schema.identity import arch_hash

BASE = tree(
    {"seq": SEQ, "ffn": FFN},
    {"stack": 2, "step": ["seq", "ffn"]},
    {"recur": 3, "step": [{"parallel": ["seq", "ffn"]}, "ffn"], "inject": "add"},
)


def first(kind, number=0):
    edit = edited(deepcopy(BASE), kind, number)
    assert edit is not None
    return edit.words, edit.tree["stages"]


def test_each_kind_changes_what_its_name_says():
    layers, core = BASE["stages"]
    assert first("wrap") == ("stage 0 wrapped in 2 recurrent steps", [{"recur": 2, "step": [layers]}, core])
    assert first("tie") == ("2 layers of stage 0 tied", [{"recur": 2, "step": ["seq", "ffn"]}, core])
    untied = {"stack": 3, "step": core["step"]}
    assert first("untie") == ("3 steps of stage 1 untied", [layers, untied])
    assert first("add") == ("seq added to stage 0 at 0", [{**layers, "step": ["seq", "seq", "ffn"]}, core])
    assert first("drop") == ("seq dropped from stage 0", [{**layers, "step": ["ffn"]}, core])
    assert first("parallel") == (
        "seq and ffn of stage 0 side by side",
        [{**layers, "step": [{"parallel": ["seq", "ffn"]}]}, core],
    )
    assert first("parallel", 1) == (
        "seq and ffn of stage 1 one after the other",
        [layers, {**core, "step": ["seq", "ffn", "ffn"]}],
    )
    words, stages = first("wire", 7)
    assert words.startswith(("halt of stage", "inject of stage", "norm of stage", "residual of stage"))
    assert stages != BASE["stages"]
    assert {edited(BASE, "drop", n).words for n in range(8)} >= {"stage 0 dropped", "stage 1 dropped"}


def test_what_cannot_be_edited_so_is_told_by_none():
    alone = tree({"ffn": FFN}, {"stack": 1, "step": ["ffn"]})
    assert [kind for kind in EDITS if edited(alone, kind, 0) is None] == ["tie", "untie", "drop", "parallel"]


@pytest.mark.parametrize("kind", EDITS)
@samples(40, deadline=None)
@given(plain=trees(levels=2), number=st.integers(0, PLACES - 1))
def test_an_edit_gives_a_valid_spec_that_differs_and_is_a_function_of_its_number(kind, plain, number):
    kept = deepcopy(plain)
    edit = edited(plain, kind, number)
    assert plain == kept
    assert edit == edited(plain, kind, number)
    if edit is not None:
        assert arch_hash(make(edit.tree)) != arch_hash(make(plain))
