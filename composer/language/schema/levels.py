"""Options on several levels: stages inherit from the model, entries of a step from their stage.

A nested stage takes its options from the model, not from the stage around it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import TypeAlias, get_args

from blocks.base.config import BlockConfig
from blocks.base.sublayer import INPUT, SublayerPlace, View
from blocks.base.wiring import Site, WiringConfig, acts_on_stage
from blocks.find import wiring_options
from blocks.wiring.combine.config import Combine
from composer.language.schema.recur import Recur
from composer.language.schema.spec import BlockUse, Model, Parallel, Spec, Stage, used
from composer.language.schema.wired import inherited_keys, wiring_keys

Options: TypeAlias = Mapping[str, WiringConfig]
Sublayer: TypeAlias = str | BlockUse | Parallel
"""An entry of a step that is not a stage."""


def stage_options(model: Model, stage: Stage) -> Options:
    """Return the effective option for each key of a stage: its own, or the model's."""
    outer, given = model.wiring(), stage.wiring()
    return {key: given[key] if key in given else outer[key] for key in wiring_keys(Stage)}


def spanning(model: Model) -> dict[str, WiringConfig]:
    """Return the options of the model that its stages share: see `WiringConfig.spans_stages`."""
    shared = inherited_keys(Stage) & Model.model_fields.keys()
    given = {key: option for key, option in model.wiring().items() if key in shared}
    return {
        key: option
        for key, option in given.items()
        if isinstance(option, WiringConfig) and option.spans_stages()
    }


def entry_options(around: Options, entry: Sublayer) -> Options:
    """Return the options of an entry of a step: its own, else those `around` it, of its stage."""
    return around if isinstance(entry, str) else {**around, **entry.wiring()}


def site(model: Model, stage: Stage) -> Site:
    """Return where the options of a stage are used."""
    around = stage_options(model, stage)
    sublayers = (entry for entry in stage.step if isinstance(entry, str | BlockUse | Parallel))
    entries = tuple(entry_options(around, entry) for entry in sublayers)
    nested = tuple(stage_options(model, entry) for entry in stage.step if isinstance(entry, Stage))
    varies = isinstance(stage.recur, Recur)
    return Site(
        model.width, stage.trips, stage.tied, around, entries, model.wiring(), nested=nested, varies=varies
    )


def sublayer_places(stage: Stage, blocks: Mapping[str, BlockConfig]) -> list[SublayerPlace]:
    """Return the place of each entry of a step that is not a stage; what is no block may read anything."""
    entries = [entry for entry in stage.step if isinstance(entry, str | BlockUse | Parallel)]
    return [SublayerPlace(n, len(entries), _views(entry, blocks)) for n, entry in enumerate(entries)]


def _views(entry: Sublayer, blocks: Mapping[str, BlockConfig]) -> frozenset[View]:
    given = [blocks[name].views() if name in blocks else frozenset(get_args(View)) for name in used(entry)]
    combine = entry.option(Combine) if isinstance(entry, Parallel) else None
    return frozenset[View]().union(*given, INPUT if combine and combine.reads_input else ())


def long_form(entry: str | BlockUse) -> BlockUse:
    """Return an entry that is a block's name, perhaps with options, as a mapping."""
    return BlockUse.model_construct(use=entry) if isinstance(entry, str) else entry


@cache
def shared_keys() -> frozenset[str]:
    """Return the keys that are on more than one level."""
    return inherited_keys(Stage) | inherited_keys(BlockUse) | inherited_keys(Parallel)


def shortest(spec: Spec) -> Spec:
    """Give each option of several levels once: equal for equal architectures.

    A stage has what most of its entries have, and only the others say so. Where an option acts on the stage,
    its entries have no other; where one of the model spans its stages, neither have these.
    """
    shared = shared_keys() & Model.model_fields.keys() - spanning(spec.model).keys()
    usual = {key: Model.model_fields[key].default for key in shared}
    stages = tuple(_shortest(spec.model, stage) for stage in spec.stages)
    return spec.model_copy(update={"model": spec.model.model_copy(update=usual), "stages": stages})


def _shortest(model: Model, stage: Stage) -> Stage:
    given = site(model, stage)
    options, around = given.entries, dict(given.wiring)
    for key in shared_keys() & around.keys():
        if options and not acts_on_stage(around[key]):
            # of equally many the default, else the first
            counts = Counter(each[key] for each in options)
            default = wiring_options()[key].default
            around[key] = max(counts, key=lambda option: (counts[option], option == default))
    rest = iter(options)
    step = tuple(
        _shortest(model, entry) if isinstance(entry, Stage) else _own(entry, next(rest), around)
        for entry in stage.step
    )
    taken = {key: wiring_options()[key].default for key in inherited_keys(Stage)} | spanning(model)
    own = {key: _unless(around[key], option) for key, option in taken.items()}
    return stage.model_copy(update={"step": step, **own})


def _own(entry: Sublayer, options: Options, around: Options) -> Sublayer:
    """Return an entry that gives what differs from its stage."""
    long = entry if isinstance(entry, Parallel) else long_form(entry)
    given = {key: _unless(options[key], around[key]) for key in inherited_keys(type(long))}
    return entry if long.model_copy(update=given) == long else long.model_copy(update=given)


def _unless(option: WiringConfig, taken: WiringConfig) -> WiringConfig | None:
    return None if option == taken else option
