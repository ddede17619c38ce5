"""Prints emitted code as a person would write it: imports first, functions by their own names."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import groupby
from types import FunctionType

from torch import fx

from blocks.ir.graph import fresh
from composer.module.emission.emit import ITEMS

_ITEM = re.compile(r"    (\w+) = (\w+)\[(\d+)\]")


def printed(module: fx.GraphModule) -> str:
    """Return the source of a module's `forward`, and in front of it the imports of the functions it calls."""
    code = module.graph.python_code("self")
    text = "\n".join(line.split(";  ")[0].rstrip() for line in code.src.strip().splitlines())
    functions = {name: each for name, each in code.globals.items() if isinstance(each, FunctionType)}
    taken = set(re.findall(r"\w+", text)) | set(functions)
    imports = defaultdict(list)
    for name, function in functions.items():
        # a value of the code, or another function, may have its name already
        alias = fresh(function.__name__, taken)
        taken.add(alias)
        text = re.sub(rf"\b{name}\(", f"{alias}(", text)
        own = alias == function.__name__
        imports[function.__module__].append(alias if own else f"{function.__name__} as {alias}")
    counts = {node.name: node.meta.get(ITEMS, 1) for node in module.graph.nodes}
    lines = [f"from {path} import {', '.join(sorted(names))}" for path, names in sorted(imports.items())]
    return "\n".join([*lines, "", *_unpacked(text.splitlines(), counts)]) + "\n"


def _unpacked(lines: list[str], counts: Mapping[str, int]) -> list[str]:
    """Join the line that makes a tuple, `counts` items long, and the lines that take its items."""
    made: list[str] = []
    uses = Counter(word for line in lines for word in re.findall(r"\w+", line))
    for whole, group in groupby(lines, _taken_from):
        taken = [*group]
        if whole and made[-1].startswith(f"    {whole} = ") and uses[whole] == len(taken) + 1:
            items = {int(item[3]): item[1] for line in taken if (item := _ITEM.fullmatch(line))}
            names = ", ".join(items.get(n, "_") for n in range(counts[whole]))
            made[-1] = made[-1].replace(whole, names, 1)
        else:
            made += taken
    return made


def _taken_from(line: str) -> str:
    match = _ITEM.fullmatch(line)
    return match[2] if match else ""
