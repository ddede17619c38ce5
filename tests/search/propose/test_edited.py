"""Candidates with edits of structure: what a search proposes is valid, new, within the caps, and told."""

import pytest

from composer.language.description.show import resolved_yaml
from composer.language.edits import NO_EDIT
from composer.language.load import loads
from composer.language.space import InvalidPoint
from search.propose.feasible import ORIGIN
from search.testing.samplers import answered, finish_trial, study_of
from search.testing.spaces import toy

EDITED = ("search.sampler=evolution", "search.edits=2")


def explored(count, *settings):
    """Return the candidates of a search, and what each trial says of its origin."""
    space = toy(*EDITED, *settings)
    study, results = study_of(space), []
    for number in range(count):
        point, trial = answered(space, study)
        finish_trial(study, trial, point.costs["params"] % 97 + number % 2)
        results.append((point, study.trials[-1].user_attrs[ORIGIN]))
    return results


def test_children_with_edits_are_valid_new_within_caps_and_say_what_was_changed():
    result = explored(26)
    assert {point.verdict for point, _ in result} == {"feasible"}
    assert len({point.identity for point, _ in result}) == len(result)
    kinds = [point.params["edits.0.kind"] for point, _ in result]
    assert {*kinds[:6]} == {NO_EDIT}, "random points are the space's own"
    edits = [(point, origin) for point, origin in result if point.params["edits.0.kind"] != NO_EDIT]
    assert edits
    for point, origin in result:
        assert loads(resolved_yaml(point.spec)) == point.spec
        assert not [word for word in origin["moves"] if "edits" in word]
    kinds = ("wrapped", "tied", "untied", "added", "dropped", "side by side", "after the other", " of stage ")
    moves = [" ".join(origin["moves"]) for point, origin in edits]
    assert any(kind in move for move in moves for kind in kinds)
    again = explored(26)
    assert [(point.params, origin) for point, origin in again] == [
        (point.params, origin) for point, origin in result
    ]


def test_an_edit_that_cannot_be_made_makes_a_point_invalid_with_the_reason():
    space = toy(*EDITED)
    answers = {"edits.0.kind": "tie", "edits.1.kind": NO_EDIT}
    with pytest.raises(InvalidPoint, match="expected a spec with something to tie, got none"):
        space.point(
            lambda parameter: answers.get(
                parameter.name, parameter.choices[0] if parameter.choices else int(parameter.low)
            )
        )


def test_a_space_without_edits_asks_for_none():
    assert not [parameter for parameter in toy().parameters if parameter.name.startswith("edits")]
    assert toy("search.edits=1").identity() != toy().identity()
