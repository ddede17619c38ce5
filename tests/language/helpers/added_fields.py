"""Adds a field to every config in a copy of the sources, and says which parts of the language see it."""

import ast
import importlib.util
import inspect
import json
import random
import sys
from functools import cache, partial
from pathlib import Path

import composer
from blocks.base.config import Config
from blocks.base.wiring import selected
from blocks.find import block_types, wiring_options
from composer.data.find import data_tasks
from composer.language.load import loads, read_text
from composer.language.schema.caps import Caps
from composer.language.schema.identity import arch_hash, run_hash
from composer.language.schema.recur import Recur
from composer.language.schema.spec import Model, Stage, Train
from composer.language.space import Space
from composer.testing.examples import completed, examples, wiring_examples

SPECS = Path(composer.__file__).parents[1] / "specs"
BLOCKS = {name: next(iter(examples(kind).values())) for name, kind in block_types().items()}
STAGES = [
    {"recur": 2, "step": [*BLOCKS]},
    {"stack": 1, "step": [{"parallel": [*BLOCKS][:2]}]},
    {"stack": 1, "step": [{"use": "feed_forward", "norm": "post"}, "depth_attention"]},
]
BASE = {"schema": 1, "name": "t", "model": {"width": 16, "vocab": 300, "context": 64}}
CAPS = {
    "params": {"hard": "9M"},
    "cache_bytes_per_token": {"hard": "9MB"},
    "train_memory": {"hard": "9GB"},
    "step_time": {"device": "h100"},
}
SEARCH = {
    "objectives": [{"minimize": "loss"}],
    "trials": 2,
    "rungs": {"flops": [1]},
    "baselines": [{"spec": str(SPECS / "recurrent-tiny.yaml"), "match": ["params"]}],
}


def trees():
    """Specs as plain data that between them have every config: one for each task, block and option."""
    for name, kind in data_tasks().items():
        required = [field for field, info in kind.model_fields.items() if info.is_required()]
        data = {field: 32 if field == "length" else "text" for field in required}
        yield {**BASE, "blocks": BLOCKS, "stages": STAGES, "caps": CAPS, **trained({"task": name, **data})}
    block = next(iter(BLOCKS))
    small = {**BASE, "blocks": {block: BLOCKS[block]}, **trained({"task": "hop", "length": 32})}
    for name, kind in block_types().items():
        for plain in examples(kind).values():
            if any(isinstance(value, dict) for value in plain.values()):
                yield {**small, "blocks": {name: plain}, "stages": [{"recur": 2, "step": [name]}]}
    for value in wiring_examples("recur")["train"][1:]:
        yield {**small, "stages": [{"recur": {"steps": 3, "train": value}, "step": [block]}]}
    for key, value in options_with_fields("train"):
        stages = [{"recur": 2, "step": [block]}]
        yield {**small, "stages": stages, "train": {**small["train"], key: value}}
    for owner in ("stage", "model"):
        for key, value in options_with_fields(owner):
            if key == "documents":
                yield apart()
                continue
            given = {"stage": {"recur": 2, "step": [block]}, "model": BASE["model"]}
            given[owner] = {**given[owner], key: value}
            yield completed({**small, "stages": [given["stage"]], "model": given["model"]})


def apart():
    """Documents are apart at the token between them, which texts have, where a block reads other tokens."""
    block = "sequence_attention"
    stages = [{"recur": 2, "step": [block]}]
    model = {**BASE["model"], "documents": {"apart": 255}}
    data = {"task": "text", "length": 32, "path": "text"}
    return {**BASE, "model": model, "blocks": {block: BLOCKS[block]}, "stages": stages, **trained(data)}


def trained(data):
    return {"train": {"data": data, "tokens": "1M"}}


def options_with_fields(owner):
    """Yield an example of each option of wiring that has fields, as a mapping, with its key."""
    for key, values in wiring_examples(owner).items():
        options = wiring_options()[key]
        first = {}
        for value in sorted(values, key=lambda value: len(value) if isinstance(value, dict) else 0):
            first.setdefault(selected(options, value), value)
        for name, value in first.items():
            if options[name].model_fields:
                bare = {name: options[name].model_fields[name].default} if isinstance(value, str) else value
                yield key, bare


def places(value, path=()):
    """Yield each config in a value, and where it is."""
    if isinstance(value, Config):
        # an option of wiring without fields is a name alone, and each cap is a measure
        if type(value).model_fields and not isinstance(value, Caps):
            yield value, path
        for name, field in type(value).model_fields.items():
            yield from places(getattr(value, name), (*path, field.alias or name))
    elif isinstance(value, dict | tuple):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(each, (*path, key))


def known():
    """Map the name of each config to the config, the plain spec that has it, and its place there."""
    results = {}
    for tree in trees():
        for config, path in places(loads(json.dumps(tree))):
            results.setdefault(type(config).__name__, (type(config), tree, path))
    tree = put({**next(trees()), "search": SEARCH}, ("train", "lr"), {"choice": [1e-3, 1e-2]})
    for config, path in places(Space(read_text(json.dumps(tree), "t.yaml")).search, ("search",)):
        results[type(config).__name__] = (type(config), tree, path)
    return results


def put(tree, path, value):
    key, *rest = path
    if isinstance(tree, list):
        return [put(each, rest, value) if i == key else each for i, each in enumerate(tree)]
    return {**tree, key: put(tree.get(key, {}), rest, value) if rest else value}


def hashes(tree):
    if "search" in tree:
        return {"space": Space(read_text(json.dumps(tree), "t.yaml")).identity()}
    spec = loads(json.dumps(tree))
    return {"arch": arch_hash(spec), "run": run_hash(spec)}


def add_fields(root):
    """Add `probe: Literal["usual", "other"]` to every config in the sources below `root`."""
    wanted = {}
    for config, *_ in known().values():
        # the class as it is in the source, where another is derived from it
        config = next(each for each in config.__mro__ if _source(each))
        wanted.setdefault(config.__module__, set()).add(config.__qualname__)
    for module, names in wanted.items():
        path = root / f"{module.replace('.', '/')}.py"
        path = path if path.exists() else path.parent / path.stem / "__init__.py"
        lines = path.read_text("utf-8").splitlines()
        classes = [node for node in ast.parse("\n".join(lines)).body if getattr(node, "name", "") in names]
        assert {node.name for node in classes} == names
        for node in reversed(classes):
            last = max(i for i, each in enumerate(node.body) if isinstance(each, ast.AnnAssign))
            documented = node.body[last + 1 : last + 2]
            end = (documented or node.body[last:])[0].end_lineno
            lines[end:end] = [
                "    probe: __import__('typing').Literal['usual', 'other'] = 'usual'",
                '    """A new field."""',
            ]
        path.write_text("\n".join(lines) + "\n", "utf-8")


@cache
def _source(config):
    module = ast.parse(inspect.getsource(sys.modules[config.__module__]))
    return any(getattr(node, "name", "") == config.__qualname__ for node in module.body)


def seen(name, config, tree, path, before, drawn, generate):
    """Return which parts of the language see the field of one config, by name of the part."""
    other = put(tree, (*path, "probe"), "other")
    by_name = {
        "schema": _schema(name)["probe"].get("description") == "A new field.",
        "old hashes": hashes(tree) == before,
        "manual": _manual(config, generate),
    }
    if path[:1] == ("search",):
        return by_name | {"hash": (hashes(other) != before) == ("baselines" not in path)}
    by_name["generated specs"] = name in drawn or not _is_drawn(path)
    return by_name | _spec_sees(name, path, tree, other, before)


@cache
def _whole_schema():
    from composer.language.description.json_schema import spec_schema

    return spec_schema()


def _schema(name):
    schema = _whole_schema()
    special = {"Spec": schema, "SearchConfig": schema["properties"]["search"]}
    return (special.get(name) or schema["$defs"][name])["properties"]


def _manual(config, generate):
    from blocks.base.wiring import WiringConfig

    if issubclass(config, WiringConfig):
        return "A new field." in generate.wiring_table(" ".join(config.owner))
    table = generate.field_table(f"{config.__module__}:{config.__name__}")
    return "| `probe` | usual or other | `usual` | A new field. |" in table


def _spec_sees(name, path, tree, other, before):
    from composer.draw.layout import picture
    from composer.draw.svg import svg
    from composer.language.description.align import _entry_cost, _likeness
    from composer.language.description.diff import differences
    from composer.language.description.show import changed_yaml, document, resolved_yaml

    a, b = loads(json.dumps(tree)), loads(json.dumps(other))
    shown = document(a)
    for step in path:
        shown = shown[step]
    part = "arch" if path[:1] != ("train",) else "run"
    by_name = {
        "hash": (hashes(other)[part] != before[part]) == (path[:1] != ("caps",)),
        "show": shown.get("probe") == "usual",
        "round trip": loads(resolved_yaml(b)) == loads(changed_yaml(b)) == b != a,
        "only what is changed": "probe" not in changed_yaml(a),
        "diff": [str(each).partition("probe")[2].strip(": }") for each in differences(a, b)]
        == ["usual -> other"],
    }
    if path[:1] == ("blocks",):
        block = path[1]
        by_name["alignment"] = _likeness(a, b, block, block, set(), {0}) < _likeness(
            a, a, block, block, set(), {0}
        )
        # a block's own words stand for the fields of a mapping
        by_name["picture"] = bool(path[2:]) or "probe other" in svg(picture(b))
    elif path[:1] == ("stages",):
        names = {block: block for block in a.blocks}
        one, two = (spec.stages[path[1]] for spec in (a, b))
        if name in ("BlockUse", "Parallel"):
            one, two = one.step[0], two.step[0]
        by_name["alignment"] = _entry_cost(one, two, names) > _entry_cost(one, one, names)
        # of a distribution of steps it has the range alone
        if name not in ("BlockUse", "Parallel") and "recur" not in path[:-1]:
            by_name["picture"] = "probe" in svg(picture(b))
    if path[:1] in (("model",), ("blocks",), ("stages",), ("train",)):
        by_name["search moves"] = _moves(tree, path, b)
    return by_name


def _moves(tree, path, wanted):
    """Whether a space can choose the field, and evolution changes it."""
    from composer.settings.tree import join
    from search.propose.moves import mutated

    choice = {"choice": ["usual", "other"]}
    plain = {
        **put(tree, (*path, "probe"), choice),
        "search": {"objectives": [{"minimize": "loss"}], "trials": 1},
    }
    space = Space(read_text(json.dumps(plain), "t.yaml"))
    parameters = {parameter.name: parameter for parameter in space.parameters}
    params = mutated({join(*path, "probe"): "usual"}, parameters, random.Random(0))
    point = space.point(lambda parameter: params[parameter.name])
    return point.spec == wanted


def _is_drawn(path):
    """Whether generated specs draw the fields of a config; an option's own configs are as in its examples."""
    return path[:1] != ("search",) and "recur" not in path[:-2]


def validated(kind, plain):
    """Return a config; it takes tuples where a file has lists."""
    return kind.model_validate(tuples(plain))


def tuples(plain):
    if isinstance(plain, dict):
        return {key: tuples(value) for key, value in plain.items()}
    return tuple(map(tuples, plain)) if isinstance(plain, list) else plain


def draw(wanted):
    """Draw parts of specs until each config has been drawn with its new field at another value.

    It ends after a while in any case. `wanted` maps the name of a config to the section of specs it is in.
    """
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from strategies import CAPS, block, config, specs, stage, task, train

    results = set()
    # alone they are cheaper to draw than in whole specs
    blocks = block(16).map(lambda plain: validated(block_types()[plain["type"]], plain))
    tasks = {kind: task(kind, 32) for kind in data_tasks().values()}
    alone = {
        "caps": {Caps: CAPS},
        "train": {Train: train(32), **tasks},
        "model": {Model: config(Model)},
        "stages": {Recur: config(Recur), Stage: stage(("b",), 1, 4)},
    }
    sections = {"blocks": [blocks]} | {
        name: [drawn.map(partial(validated, kind)) for kind, drawn in those.items()]
        for name, those in alone.items()
    }

    def collect(part, number):
        @seed(number)
        @settings(
            max_examples=20,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=[*HealthCheck],
        )
        @given(part)
        def drawing(drawn):
            results.update(type(each).__name__ for each, _ in places(drawn) if each.probe == "other")

        drawing()

    for number in range(500):
        for section, parts in sections.items():
            for part in parts:
                if section in missing(wanted, results):
                    collect(part, number)
        # entries of steps are in whole specs alone
        if missing(wanted, results) - {"blocks"} and number < 25:
            collect(specs(trained=True), number)
    return results


def missing(wanted, result):
    """Return the sections that have a config which has not been found."""
    return {section for name, section in wanted.items() if name not in result}


def main():
    root = Path(sys.argv[1])
    before = json.loads(sys.stdin.read())
    spec = importlib.util.spec_from_file_location("generate", root / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    wanted = {name: str(path[0]) if path else "" for name, (*_, path) in known().items() if _is_drawn(path)}
    drawn = draw(wanted)
    by_name = {name: seen(name, *rest, before[name], drawn, generate) for name, rest in known().items()}
    print(json.dumps(by_name))


if __name__ == "__main__":
    main()
