"""The bounds of shape, checked on a spec apart from the code that solves for them."""

from composer.language.schema.shape_bounds import ShapeBounds

TEXT, GPT = "docs/examples/text-dreamer.yaml", "docs/examples/gpt.yaml"


def shape(spec):
    """Every bounded number of each block: ratios to the width, head sizes, groups, experts per active one."""
    width, result = spec.model.width, {("", "width"): spec.model.width}
    for name, block in spec.blocks.items():
        if hasattr(block, "kv_heads"):
            heads, kv_heads, head_dim = block.geometry(width)
            assert heads % kv_heads == 0
            result |= {(name, "attention"): heads * head_dim / width, (name, "head_dim"): head_dim}
            result[name, "group"] = heads // kv_heads
        if hasattr(block, "hidden"):
            result[name, "hidden"] = getattr(block, "active", 1) * block.hidden / width
            if hasattr(block, "experts"):
                result[name, "experts"] = block.experts / block.active
    return result


def outside(spec, base, bounds=None):
    """Which bounds a spec matched from `base` is outside of, those of the base itself widened to hold it."""
    bounds = bounds or ShapeBounds()
    results = []
    own = shape(base)
    for (name, kind), value in shape(spec).items():
        was = own[name, kind]
        if kind == "width":
            good = was / bounds.width_factor <= value <= was * bounds.width_factor
        elif kind in ("attention", "hidden"):
            low, high = getattr(bounds, f"{kind}_ratio")
            good = min(low, was) - 1e-9 <= value <= max(high, was) + 1e-9
        elif kind == "experts":
            good = value >= min(bounds.experts_per_active, was) - 1e-9
        else:
            good = value == was or value in (bounds.head_dims if kind == "head_dim" else bounds.groups)
        if not good:
            results.append((name, kind, value))
    return results
