"""Random valid specs for property tests, made from the fields of the configs; small sizes.

A field that is new is drawn without a change here, unless other fields restrict it.
"""

import json
import types
from functools import cache, partial
from typing import Annotated, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic import ValidationError

from blocks.base.config import Config
from blocks.base.fields import Grid
from blocks.find import block_types, wiring_options
from blocks.sequence_attention.config import RopeScaling, Yarn
from composer.data.find import data_tasks
from composer.graph.other_steps import training_graphs
from composer.language.load import loads
from composer.language.schema.caps import Caps
from composer.language.schema.recur import Recur
from composer.language.schema.spec import BlockUse, Model, Parallel, Schedule, Spec, Stage, Train
from composer.language.schema.unions import WiringUnion
from composer.language.validation.describe_types import fields
from composer.settings.errors import SpecError
from composer.testing.examples import wiring_examples

# among them names of methods of modules, and ones that look like something else in YAML
NAMES = ("seq", "expert", "side-2", "Twin_b", "norm", "eval", "null", "true", "e1", "no", "a-b_c", "Inf")
SLICES = st.sampled_from([None, None, "::2", "1:", "-1:", ":1"])
SMALL = st.integers(1, 8)
LEFT_OUT = 6
"""How often refused options are left out of a spec, since that can make others refused."""


@cache
def by_type(kind, key):
    """Draw a field of a config by its type; made once, since hypothesis checks each new strategy."""
    return value(fields(kind)[key])


def config(kind, given=(), without=()):
    """Draw the fields of a config: those `given` by their strategies, others by their types."""
    given = dict(given)
    keys = (key for key in fields(kind) if key not in without)
    drawn = {key: given[key] if key in given else by_type(kind, key) for key in keys}
    required = {field.alias or name for name, field in kind.model_fields.items() if field.is_required()}
    required |= {"type", "task"}
    return st.fixed_dictionaries(
        {key: strategy for key, strategy in drawn.items() if key in required},
        optional={key: strategy for key, strategy in drawn.items() if key not in required},
    )


def value(hint):
    """Draw a small value of a type."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        wiring = next((item for item in args if isinstance(item, WiringUnion)), None)
        if grid := next((item for item in args if isinstance(item, Grid)), None):
            return SMALL.map(grid.nth)
        return value(args[0]) if wiring is None else option(wiring)
    if origin is Literal:
        return st.sampled_from(args)
    if origin in (Union, types.UnionType):
        return st.one_of(*(value(arg) for arg in args if arg is not type(None)))
    if origin is dict:
        return st.dictionaries(st.sampled_from(["a", "b"]), value(args[1]), max_size=2)
    if origin is tuple:
        return st.lists(value(args[0]), min_size=len(args), max_size=2)
    if isinstance(hint, type) and issubclass(hint, Config):
        return config(hint).filter(lambda plain: valid(hint, plain))
    return {bool: st.booleans(), int: SMALL, float: st.sampled_from([0.25, 0.5]), str: st.just("text")}[hint]


def valid(kind, plain):
    try:
        return bool(kind.model_validate(plain))
    except ValidationError:
        return False


def option(wiring):
    """Draw a value of a key of wiring: its default more often than each other one."""
    owner = next(iter(wiring.options.values())).owner[0]
    values = wiring_examples(owner)[wiring.tag]
    return st.sampled_from(values[:1] + values)


SCALINGS = ("linear", "ntk", "yarn")


def scaled_by(way):
    """Draw a scaling of rotations in one way."""
    yarn = config(Yarn, {"beta_fast": st.integers(9, 32)})
    drawn = config(RopeScaling, {"yarn": yarn}, without=[other for other in SCALINGS if other != way])
    return drawn.filter(lambda plain: way in plain)


@st.composite
def attention(draw, kind, width):
    """Draw an attention block, whose sizes divide each other and the width."""
    sizes = ("heads", "kv_heads", "head_dim")
    given = {
        "rope_base": st.sampled_from([500.0, 1e6, 123456.1, 123456.4]),
        "rope_scaling": st.sampled_from(SCALINGS).flatmap(scaled_by),
    }
    result = draw(config(kind, given, without=(*sizes, "kv_from")))
    if not result.get("rope", True):
        result = {name: each for name, each in result.items() if not name.startswith("rope_")}
    rotates = result.get("rope", result.get("rotary", True))
    heads = draw(st.sampled_from([n for n in (1, 2, 3, 4) if n <= width]))
    result["heads"] = heads
    if draw(st.booleans()):
        result["kv_heads"] = draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0]))
    default = width // heads if width % heads == 0 else 0
    if not default or (rotates and default % 2) or draw(st.booleans()):
        result["head_dim"] = draw(st.sampled_from([2, 4, 6, 10] if rotates else [1, 3, 4, 6]))
    return result


@st.composite
def experts(draw, kind, width):
    """Draw expert attention, with experts enough and a rotation only of pairs."""
    count = draw(st.integers(1, 6))
    given = {
        "experts": st.just(count),
        "active": st.integers(1, min(3, count)),
        "hidden": st.sampled_from([3, 8, 16]),
        "balance_rate": st.sampled_from([0, 0.001, 0.1]),
    }
    result = draw(config(kind, given))
    if width % 2 and result.get("depth_code", "rotary") == "rotary":
        result["depth_code"] = draw(st.sampled_from(["none", "bias"]))
    return result


@st.composite
def latents(draw, kind, width):
    """Draw latent attention, whose heads divide the width or have a size, some of it rotated in pairs."""
    result = draw(config(kind, {"latent": st.integers(1, 6)}, without=("head_dim", "rope_dim")))
    heads = result["heads"] = draw(st.sampled_from([n for n in (1, 2, 3) if n <= width]))
    if width % heads or width // heads % 4 or draw(st.booleans()):
        result["head_dim"] = draw(st.sampled_from([4, 5, 8]))
        result["rope_dim"] = draw(st.sampled_from([2, 4] if result["head_dim"] > 4 else [2]))
    return result


@st.composite
def deltas(draw, kind, width):
    """Draw gated delta rules, whose heads divide the width or have a size."""
    result = draw(config(kind, {"convolution": st.integers(0, 3)}, without=("head_dim",)))
    heads = result["heads"] = draw(st.sampled_from([n for n in (1, 2, 3) if n <= width]))
    if width % heads or draw(st.booleans()):
        result["head_dim"] = draw(st.integers(1, 5))
    return result


@st.composite
def product_keys(draw, kind, width):
    """Draw experts found by product keys, as many as pairs of these; queries have halves."""
    keys = draw(st.integers(1, 4))
    given = {"experts": st.just(keys**2), "active": st.integers(1, keys), "heads": st.integers(1, 2)}
    result = draw(config(kind, given, without=("key_dim",)))
    heads = result.get("heads", 1)
    if width % heads or width // heads % 2 or draw(st.booleans()):
        result["key_dim"] = draw(st.sampled_from([2, 4]))
    return result


SHARED = ("kv_for",)
SIZED = {"sequence_attention": attention, "depth_attention": attention, "expert_attention": experts}
SIZED |= {"latent_attention": latents, "gated_delta": deltas, "product_key_experts": product_keys}


@cache
def block(width):
    """Draw a block of any type that the width allows."""

    def sound(kind, plain):
        return not [*kind.model_validate(plain).problems(width)]

    return st.one_of(
        (SIZED[name](kind, width) if name in SIZED else config(kind, without=SHARED)).filter(
            partial(sound, kind)
        )
        for name, kind in block_types().items()
    )


@cache
def mix(names):
    return config(
        Parallel, {"at": SLICES, "parallel": st.lists(st.sampled_from(names), min_size=2, max_size=3)}
    )


@cache
def use(names):
    return config(BlockUse, {"at": SLICES, "use": st.sampled_from(names)})


@cache
def one_stage(names, levels, room):
    """Draw the fields of a stage, but for its kind and number of steps."""
    kinds = [st.sampled_from(names), st.sampled_from(names), use(names), mix(names)]
    if levels > 1:
        kinds.append(stage(names, levels - 1, room))
    given = {"at": SLICES, "step": st.lists(st.one_of(kinds), min_size=1, max_size=3)}
    return config(Stage, given, without=("recur", "stack"))


@st.composite
def stage(draw, names, levels, room):
    """`room` bounds the executions of one step of this stage, counted through the loops around it."""
    trips = draw(st.integers(1, min(4, room)))
    if room >= 4 and draw(st.integers(0, 3)) == 0:
        # no distribution of the examples goes beyond 3
        sampled = draw(config(Recur, {"steps": st.integers(1, 4)}))
        return {"recur": sampled, **draw(one_stage(names, levels, room // 4))}
    result = draw(one_stage(names, levels, room // trips))
    return {draw(st.sampled_from(["recur", "stack"])): trips, **result}


def task(kind, context):
    """Draw a task with sequences of the context."""
    # low enough for sequences of this length, and high enough for what each task asks
    bounds = {"symbols": (3, 5), "hops": (1, 4), "modulus": (11, 13), "operators": (1, 4), "digits": (1, 4)}
    bounds |= {"nodes": (5, 8), "steps": (2, 4), "pairs": (1, 4), "keys": (16, 20), "values": (16, 20)}
    sizes = {name: st.integers(*bound) for name, bound in bounds.items()}
    sizes["eval_sets"] = st.sampled_from([["eval"], ["eval", "test"]])
    return config(kind, sizes | {"length": st.just(context)}).map(lambda data: data | {"length": context})


@cache
def train(context):
    """Draw a `train` section with sequences of the context."""
    given = {
        "data": st.one_of(task(kind, context) for kind in data_tasks().values()),
        # enough for a decay of steps that can have a shape
        "tokens": st.integers(20_000, 10**9),
        "batch_tokens": st.integers(64, 4096),
        "accumulate": st.just(1),
        "devices": st.sampled_from(["auto", 1]),
        "lr": st.floats(1e-8, 10),
        "betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).map(list),
        "clip": st.floats(0, 10),
        "seed": st.integers(0, 2**40),
        "schedule": config(
            Schedule, {"warmup": st.just(0), "stable": st.just(0.5), "decay": st.just(0.5)}
        ).map(lambda drawn: {"warmup": 0, "stable": 0.5, "decay": 0.5} | drawn),
    }
    return config(Train, given)


def used(stages):
    for entry in (entry for each in stages for entry in each["step"]):
        if isinstance(entry, str):
            yield entry
        elif "use" in entry:
            yield entry["use"]
        elif "parallel" in entry:
            yield from entry["parallel"]
        else:
            yield from used([entry])


CAPS = value(Caps)
REST = config(Spec, without=("schema", "name", "model", "blocks", "stages", "caps", "train"))


def runs_first(source, reader, stages):
    """Whether a block runs before another one in each step that has that one."""
    for each in stages:
        ran = False
        for entry in each["step"]:
            inner = "step" in entry and not isinstance(entry, str)
            if inner and not runs_first(source, reader, [entry]):
                return False
            for name in [] if inner else used([{"step": [entry]}]):
                if name == reader and not ran:
                    return False
                ran = ran or name == source
    return True


def shared(draw, blocks, stages):
    """Let blocks share keys and values with a sequence attention, where one runs before them.

    A depth attention reads its keys and values, a feed-forward layer adds some.
    """
    for name, block in blocks.items():
        sources = [
            other
            for other, source in blocks.items()
            if source["type"] == "sequence_attention" and runs_first(other, name, stages)
        ]
        if block["type"] == "depth_attention" and sources and draw(st.booleans()):
            source = draw(st.sampled_from(sources))
            sizes = {
                key: blocks[source][key] for key in ("heads", "kv_heads", "head_dim") if key in blocks[source]
            }
            kept = {key: each for key, each in block.items() if key not in ("kv_heads", "head_dim", "input")}
            blocks[name] = {**kept, **sizes, "kv_from": source, "rotary": False}
        joint = [source for source in sources if blocks[source].get("depth") == "joint"]
        if block["type"] == "feed_forward" and joint and draw(st.booleans()):
            blocks[name] = {**block, "kv_for": draw(st.sampled_from(joint))}


@st.composite
def trees(draw, levels=3, room=8, widths=(5, 6, 8, 12, 16), trained=False):
    """A spec as plain data, as a user would write it; with `trained` some have `train` and `caps`."""
    sizes = {
        "width": st.sampled_from(widths),
        "vocab": st.integers(2, 20),
        "context": st.sampled_from([7, 8, 12]),
    }
    model = draw(config(Model, sizes))
    names = tuple(draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True)))
    stages = draw(st.lists(stage(names, levels, room), min_size=1, max_size=3))
    sized = {name: draw(block(model["width"])) for name in dict.fromkeys(used(stages))}
    shared(draw, sized, stages)
    by_name = {"schema": 1, "name": "generated", "model": model, "blocks": sized, "stages": stages}
    by_name |= draw(REST)
    if trained and draw(st.booleans()):
        by_name["model"] = {**model, "vocab": 300, "context": 32}
        by_name["name"] = draw(st.sampled_from(["tiny", "1e5", "0x10", "x.y-z"]))
        by_name["train"] = draw(train(32))
        by_name["caps"] = caps = draw(CAPS)
        if isinstance(memory := caps.get("train_memory"), dict):
            # `train` says of how many tokens
            memory.pop("batch_tokens", None)
    return allowed(by_name)


def allowed(tree):
    """Leave out the wiring that the spec's own checks refuse, such as options that exclude each other."""
    for _ in range(LEFT_OUT):
        try:
            training_graphs(make(tree))
        except SpecError as error:
            for fault in error.faults:
                first, *rest = fault.path.split(".")
                if first == "train":  # which is a key of `recur` as well
                    tree = {**tree, first: without(tree[first], rest)}
                elif first == "blocks":
                    name, field = rest
                    kept = {key: each for key, each in tree["blocks"][name].items() if key != field}
                    tree = {**tree, "blocks": {**tree["blocks"], name: kept}}
                else:
                    tree = without(tree, [first, *rest])
                if fault.path == "stages":  # where it is not known which entry cannot be skipped
                    tree = json.loads(json.dumps(tree), object_hook=at_all_steps)
        else:
            break
    return tree


def at_all_steps(mapping):
    return {key: value for key, value in mapping.items() if key != "at"}


def without(tree, path):
    """Remove the option at, or around, a path."""
    if not path:
        return tree
    if isinstance(tree, list):
        number, *rest = path
        return [without(each, rest) if str(i) == number else each for i, each in enumerate(tree)]
    key, *rest = path
    if key in wiring_options() or key in ("at", "per"):
        return {name: value for name, value in tree.items() if name != key}
    return {**tree, key: without(tree[key], rest)} if rest and key in tree else tree


def make(tree):
    """Load a spec from plain data, through its text."""
    return loads(json.dumps(tree))


def specs(**bounds):
    return trees(**bounds).map(make)
