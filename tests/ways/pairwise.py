"""Specs that between them have every pair of options, and every option with every way of training.

An option that the others of a spec exclude is left out of it, as the spec's own checks say.
"""

import random
from itertools import combinations

from strategies import allowed

from blocks.find import block_types, wiring_options
from composer.language.schema.spec import Model
from composer.testing.examples import WIDTH, examples, option_values, other_values, wiring_examples

BASE = {"schema": 1, "name": "t"}
SIZES = {"width": WIDTH, "vocab": 13, "context": 8}
OWNERS = ("recur", "stage", "parallel", "model")


def factors(ways):
    """Map each thing that varies to its values: options by name, levels, blocks, ways of training."""
    by_name = {("way",): [*ways], ("at",): [None, "1:"], ("per",): ["batch", "sequence"]}
    for key, options in wiring_options().items():
        owners = [owner for owner in (*OWNERS, "use") if key in wiring_examples(owner)]
        if not owners:  # an option of the training
            continue
        owner = [each for each in owners if each != "model"] or owners
        by_name[owner[0], key] = [*options]
        if len(owners) > 1:
            by_name["level", key] = owners
    for place in ("a", "b"):
        by_name["block", place] = [*block_types()]
    for key, _ in other_values(Model):
        if key not in SIZES:
            by_name["field", key] = [False, True]
    return by_name


def covering(ways, seed=0):
    """Yield specs as plain data, each with a way of training, that have every pair that is not refused.

    A pair is refused if it is in no spec even where all else is at its default.
    """
    draw, given = random.Random(seed), factors(ways)
    names = [*given]
    left = {
        frozenset([(one, a), (two, b)])
        for one, two in combinations(names, 2)
        for a in given[one]
        for b in given[two]
    }
    while left:
        pair = dict(sorted(draw.choice(sorted(left, key=lambda pair: sorted(map(str, pair)))), key=str))
        alone = {name: given[name][0] for name in names} | {("way",): draw.choice(ways)} | pair
        for row in (_filled(pair, given, left, draw), alone):
            plain, held = _spec_of(row, draw)
            have = {frozenset(each) for each in combinations(held.items(), 2)}
            if have & left:
                yield row["way",], plain
                left -= have
            if frozenset(pair.items()) not in left:
                break
        left.discard(frozenset(pair.items()))


def _filled(row, given, left, draw):
    """Give each other factor the value that adds most pairs."""
    row = dict(row)
    for name in draw.sample([*given], len(given)):
        if name not in row:
            values = draw.sample(given[name], len(given[name]))
            new = [sum(frozenset([(name, each), other]) in left for other in row.items()) for each in values]
            row[name] = values[new.index(max(new))]
    return row


def _spec_of(row, draw):
    """Return a row as a spec in plain data, with examples of its options, and the part of it that is left."""
    model, stage, recur = {**SIZES}, {}, {"steps": 3}
    use, mix, blocks = {"use": "a"}, {"parallel": ["a", "b"]}, {}
    places = {"model": model, "stage": stage, "recur": recur, "use": use, "parallel": mix}
    given = {}
    for name, value in row.items():
        kind, key = name[0], name[-1]
        if kind == "block":
            blocks[key] = draw.choice([*examples(block_types()[value]).values()])
        elif kind == "field" and value:
            model[key] = draw.choice([each for other, each in other_values(Model) if other == key])
        elif kind == "per" and value == "sequence":
            recur["per"], given[name] = value, (recur, "per")
        elif kind == "at" and value:
            use["at"], given[name] = value, (use, "at")
        elif kind in places:
            owner = row.get(("level", key), kind)
            known = wiring_examples(owner)[key]
            values = [each for each in option_values(wiring_options()[key][value]) if each in known]
            if values:
                places[owner][key] = draw.choice(values)
                given[name] = (places[owner], key)
    stages = [{"stack": 1, "step": ["b"]}, {"recur": recur, "step": [use, mix, "b"], **stage}]
    plain = allowed({**BASE, "model": model, "blocks": blocks, "stages": stages})
    (_, last), options = plain["stages"], plain["model"]
    kept = {"model": options, "stage": last, "recur": last["recur"], "use": last["step"][0]}
    kept["parallel"] = last["step"][1]
    gradient_slice = {id(place): owner for owner, place in places.items()}
    held = {
        name: value
        for name, value in row.items()
        if name not in given or given[name][1] in kept[gradient_slice[id(given[name][0])]]
    }
    return plain, held
