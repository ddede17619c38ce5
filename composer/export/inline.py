"""Functions with all that they use, as one piece of source: comments stay, imports of ours go."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

_OURS = frozenset({"blocks", "composer", "search"})


class Key(NamedTuple):
    """A definition: `name` at the top of a module."""

    module: str
    name: str


class _Import(NamedTuple):
    """What an import statement binds: a module, or with a `name` something in it."""

    module: str
    name: str = ""


class _Module:
    """The source of a module, what it defines and what it imports."""

    def __init__(self, name: str) -> None:
        file = import_module(name).__file__
        assert file is not None
        self.name, text = name, Path(file).read_text(encoding="utf-8")
        self.lines = text.encode().splitlines(keepends=True)
        self.definitions: dict[str, ast.stmt] = {}
        self.imports: dict[str, _Import] = {}
        self._read(ast.parse(text).body)

    def _read(self, body: list[ast.stmt]) -> None:
        for node in body:
            match node:
                case ast.FunctionDef() | ast.ClassDef():
                    self.definitions[node.name] = node
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                    self.definitions[name] = node
                case ast.Assign(targets=[ast.Tuple(elts=targets)]):
                    names = [each.id for each in targets if isinstance(each, ast.Name)]
                    self.definitions |= dict.fromkeys(names, node)
                case ast.Import():
                    for each in node.names:
                        self.imports[each.asname or each.name.partition(".")[0]] = _Import(each.name)
                case ast.ImportFrom(module=str(module)):
                    for each in node.names:
                        self.imports[each.asname or each.name] = _Import(module, each.name)
                case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                    self._read(node.body)


_module = cache(_Module)


class Inliner:
    """Collects functions and what they use; each gets a name of its own.

    Attributes:
        names: the name of each definition here.
    """

    def __init__(self) -> None:
        self.names: dict[Key, str] = {}
        self._texts: list[str] = []
        self._imports: dict[str, str] = {}  # bound name -> statement
        self._ours = {*_OURS}

    def function(self, path: str) -> str:
        """Add the function `package.module:name`; return its name here."""
        module, name = path.split(":")
        self._ours.add(module.partition(".")[0])
        key = self._resolved(Key(module, name))
        assert isinstance(key, Key), f"{path} is not defined by a package of ours"
        return self._added(key)

    def imports(self) -> list[str]:
        """Return the import statements of what is used."""
        return [*self._imports.values()]

    def definitions(self) -> list[str]:
        """Return the source of each definition, what it needs before it."""
        return self._texts

    def taken(self) -> set[str]:
        """Return the names that are bound at the top of the file."""
        return {*self.names.values(), *self._imports}

    def _added(self, key: Key) -> str:
        if key in self.names:
            return self.names[key]
        module = _module(key.module)
        node = module.definitions[key.name]
        # one statement may define several names
        together = [Key(key.module, name) for name, each in module.definitions.items() if each is node]
        self.names |= {each: self._name(each) for each in together}
        text = self._text(module, node)
        if len(together) > 1:
            assert all(self.names[each] == each.name for each in together), f"{key.name}: taken elsewhere"
            self._texts.append(text)
            return key.name
        own = rf"^((?:def |class )?){re.escape(key.name)}\b"
        self._texts.append(re.sub(own, rf"\g<1>{self.names[key]}", text, count=1, flags=re.MULTILINE))
        return self.names[key]

    def _name(self, key: Key) -> str:
        """Return a definition's own name, or where that is taken one with the name of its folder."""
        folder = key.module.split(".")[-2]
        parts = [
            key.name,
            f"{folder}_{key.name.lstrip('_')}",
            f"{'_'.join(key.module.split('.'))}_{key.name}",
        ]
        bad = {*self.taken(), *keyword.kwlist, *dir(builtins)}
        return next(each for each in parts if each not in bad)

    def _resolved(self, key: Key) -> Key | _Import | None:
        """Return the definition that a name of a module stands for, or what it imports; None for others."""
        module = _module(key.module)
        if key.name in module.definitions:
            return key
        imported = module.imports.get(key.name)
        if imported is None or not self._is_ours(imported.module):
            return imported
        inner = f"{imported.module}.{imported.name}"
        if not imported.name or _is_module(inner):
            return _Import(inner if imported.name else imported.module)
        return self._resolved(Key(imported.module, imported.name))

    def _is_ours(self, module: str) -> bool:
        return module.partition(".")[0] in self._ours

    def _text(self, module: _Module, node: ast.stmt) -> str:
        """Return the source of a definition with the names that things have here."""
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(each.lineno for each in decorators)])
        assert node.end_lineno is not None
        lines = [*module.lines[first - 1 : node.end_lineno]]
        edits = [(each, self._here(module, each)) for each in _globals(node)]
        for each, name in sorted(edits, key=lambda edit: (edit[0].lineno, edit[0].col_offset), reverse=True):
            if name is not None:
                assert each.end_col_offset is not None
                line = lines[each.lineno - first]
                lines[each.lineno - first] = (
                    line[: each.col_offset] + name.encode() + line[each.end_col_offset :]
                )
        return re.sub(r"  # (type|noqa)\b.*", "", b"".join(lines).decode()).rstrip() + "\n"

    def _here(self, module: _Module, node: ast.Name | ast.Attribute) -> str | None:
        """Return what stands for a name, or for an attribute of a module of ours; None for what stays."""
        name = node.id if isinstance(node, ast.Name) else _base(node).id
        target = self._resolved(Key(module.name, name))
        if isinstance(node, ast.Attribute):
            if not isinstance(target, _Import) or not self._is_ours(target.module):
                return None
            inner = self._resolved(Key(target.module, node.attr))
            return self._added(inner) if isinstance(inner, Key) else None
        if isinstance(target, Key):
            return self._added(target)
        if isinstance(target, _Import) and not self._is_ours(target.module):
            self._import(name, target)
        return None

    def _import(self, name: str, imported: _Import) -> None:
        if imported.name:
            alias = "" if name == imported.name else f" as {name}"
            line = f"from {imported.module} import {imported.name}{alias}"
        else:
            alias = "" if name == imported.module.partition(".")[0] else f" as {name}"
            line = f"import {imported.module}{alias}"
        assert self._imports.setdefault(name, line) == line, f"two imports are called {name}"


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _base(node: ast.Attribute) -> ast.Name:
    base = node.value
    assert isinstance(base, ast.Name)
    return base


def _globals(node: ast.AST, bound: frozenset[str] = frozenset()) -> Iterator[ast.Name | ast.Attribute]:
    """Yield each use of a name that a definition does not bind itself, attributes of it as a whole."""
    if isinstance(node, ast.FunctionDef):
        bound = bound | {*_bound(node)}
    match node:
        case ast.Attribute(value=ast.Name(id=name) as base) if name not in bound:
            yield node
            yield base
        case ast.Name(id=name, ctx=ast.Load()) if name not in bound:
            yield node
        case _:
            for child in ast.iter_child_nodes(node):
                yield from _globals(child, bound)


def _bound(function: ast.FunctionDef) -> Iterator[str]:
    for each in ast.walk(function):
        match each:
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.FunctionDef(name=name) if each is not function:
                yield name
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name.partition(".")[0] for alias in each.names)
