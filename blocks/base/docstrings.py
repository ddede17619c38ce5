"""Docstrings from source code: of fields, which Python discards, and of everything under `python -OO`.

Parsing takes milliseconds per file, so it happens only for a schema, and for help texts under `python -OO`.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any


def docstring(documented: type | Callable[..., Any]) -> str:
    """Return the docstring of a class or function at the top of a module, also under `python -OO`."""
    text = documented.__doc__ or _own_docs(documented.__module__).get(documented.__qualname__, "")
    return inspect.cleandoc(text)


def field_docs(config: type) -> dict[str, str]:
    """Map each field of a class and its bases to its description, or the string below it in the source.

    A wiring key is documented by the class that declares it.
    """
    described = getattr(config, "model_fields", {}).items()
    docs: dict[str, str] = {name: info.description for name, info in described if info.description}
    for base in reversed(config.__mro__):
        docs |= _field_docs(base.__module__).get(base.__qualname__, {})
    for name, info in described:
        # wiring keys, whose type is not imported here
        for kind in (item.kind for item in info.metadata if hasattr(item, "kind")):
            docs[name] = docstring(kind)
    return docs


@cache
def _own_docs(module: str) -> dict[str, str]:
    """Map each top-level class and function of a module to its docstring; empty without source."""
    defined = (ast.ClassDef, ast.FunctionDef)
    return {node.name: ast.get_docstring(node) or "" for node in _top(module) if isinstance(node, defined)}


@cache
def _field_docs(module: str) -> dict[str, dict[str, str]]:
    """Map each top-level class of a module to the strings below its fields; empty without source."""
    return {node.name: _class_docs(node) for node in _top(module) if isinstance(node, ast.ClassDef)}


@cache
def _top(module: str) -> list[ast.stmt]:
    try:
        return ast.parse(inspect.getsource(sys.modules[module])).body
    except (KeyError, OSError, TypeError, SyntaxError):
        return []


def _class_docs(node: ast.ClassDef) -> dict[str, str]:
    docs: dict[str, str] = {}
    for field, text in pairwise(node.body):
        match field, text:
            case [ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words)))]:
                docs[name] = inspect.cleandoc(words)
    return docs
