"""Resolves a merged tree: choices first, then `${}` references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from composer.language.parsing.choice import Choice, SearchParameter, Value, read_choice
from composer.language.parsing.expression import REFERENCE, ExpressionError, parse
from composer.settings.errors import Fault, close, shown
from composer.settings.tree import LIMIT, Node, below, form, join, within

Ask: TypeAlias = Callable[[SearchParameter], Value]

_LONGEST = 10_000
_DEPTH = 30


class Resolver:
    """Resolves the parts of one tree, asking each parameter that a taken branch holds, once.

    `let` holds the names that `${}` may use; `ask` answers parameters, and without it a choice is a fault
    with the hint `refusal`.
    `choices` remembers parsed choices by parameter name across the points of a space. Faults gather in
    `faults`; the parts they leave unresolved come out as null, their paths in `broken`.
    """

    def __init__(
        self,
        let: Mapping[str, Node],
        ask: Ask | None = None,
        choices: dict[str, Choice] | None = None,
        refusal: str = "choices are allowed only in a space, which has a `search:` section",
    ) -> None:
        self.let, self.ask, self.refusal = let, ask, refusal
        self.choices = {} if choices is None else choices
        self.params: dict[str, Value] = {}
        self.names: dict[str, Node] = {}
        self.faults: list[Fault] = []
        self.broken: list[str] = []
        self._open: list[str] = []

    def resolve(self, node: Node, path: str, branch_path: str | None = None) -> Node:
        """Resolve `node`, which stands at `path`; parameter names inside it begin with `branch_path`."""
        if not node.live:
            return node
        branch_path = path if branch_path is None else branch_path
        value = node.value
        if isinstance(value, str):
            return self._text(node, value, path)
        if isinstance(value, list):
            items = [
                self.resolve(item, below(path, i), below(branch_path, i)) if item.live else item
                for i, item in enumerate(value)
            ]
            return self._bounded(Node(items, node.place, node.key), path)
        assert isinstance(value, dict)
        if form(value):
            taken = self.take(node, path, branch_path)
            return self.resolve(taken[0], path, taken[1]) if taken else self._break(node, path)
        resolved = {
            name: self.resolve(item, below(path, name), below(branch_path, name)) if item.live else item
            for name, item in value.items()
        }
        return self._bounded(Node(resolved, node.place, node.key), path)

    def take(self, node: Node, path: str, branch_path: str) -> tuple[Node, str] | None:
        """Take one alternative of the choice `node`, and the path that names inside it begin with."""
        choice = self.choices.get(branch_path) or read_choice(node, branch_path)
        if isinstance(choice, list):
            self.faults += choice
            return None
        if self.ask is None:
            self.faults.append(node.fault(path, "one value", "a choice", self.refusal))
            return None
        self.choices[branch_path] = choice
        answer = self.params[branch_path] if branch_path in self.params else self.ask(choice.parameter)
        if not choice.parameter.holds(answer):
            self.faults.append(node.fault(path, f"an answer to {choice.parameter}", shown(answer)))
            return None
        self.params[branch_path] = answer
        taken, suffix = choice.take(answer)
        return taken.at(node.key), branch_path + suffix

    def outer(self, node: Node, path: str, branch_path: str) -> tuple[Node, str]:
        """Resolve `node` itself down to a scalar, list or mapping, but not what that holds."""
        while isinstance(node.value, dict) and form(node.value):
            taken = self.take(node, path, branch_path)
            if taken is None:
                return self._break(node, path), branch_path
            node, branch_path = taken
        return (
            (self.resolve(node, path, branch_path), branch_path)
            if isinstance(node.value, str)
            else (node, branch_path)
        )

    def hides(self, path: str) -> bool:
        """Whether `path` lies in an unresolved part, where faults mean nothing."""
        return within(path, self.broken)

    def _break(self, node: Node, path: str) -> Node:
        self.broken.append(path)
        return Node(None, node.place, node.key)

    def _bounded(self, node: Node, path: str) -> Node:
        if node.size <= LIMIT:
            return node
        self.faults.append(node.fault(path, f"at most {LIMIT} values", "more, once ${} is replaced"))
        return self._break(node, path)

    def _text(self, node: Node, text: str, path: str) -> Node:
        try:
            whole = REFERENCE.fullmatch(text)
            if whole and whole[1] is not None:
                value = parse(whole[1])(self._lookup)
                inner = value if isinstance(value, Node) else Node(value, node.place)  # type: ignore[arg-type]
                return Node(inner.value, node.place, node.key, text)
            return Node(self._interpolated(text), node.place, node.key, text)
        except _Reported:
            pass
        except ExpressionError as error:
            self.faults.append(node.fault(path, error.expected, error.got, error.hint))
        return self._break(node, path)

    def _interpolated(self, text: str) -> str:
        parts: list[str] = []
        at = 0
        for match in REFERENCE.finditer(text):
            parts.append(_closed(text[at : match.start()]))
            at = match.end()
            value = "${" if match[1] is None else parse(match[1])(self._lookup)
            value = value.value if isinstance(value, Node) else value
            if isinstance(value, dict | list):
                raise ExpressionError("a single value inside text", shown(value))
            parts.append(value if isinstance(value, str) else shown(value))
        result = "".join([*parts, _closed(text[at:])])
        if len(result) > _LONGEST:
            raise ExpressionError(f"at most {_LONGEST} characters", "more, once ${} is replaced")
        return result

    def _lookup(self, name: str) -> object:
        node = self._named(name)
        return node if isinstance(node.value, dict | list) else node.value

    def _named(self, name: str) -> Node:
        if name not in self.let:
            hint = close(name, self.let) or ("" if self.let else "there is no `let`")
            raise ExpressionError("a name from `let`", repr(name), hint)
        if name in self._open:
            circle = " -> ".join([*self._open[self._open.index(name) :], name])
            raise ExpressionError("names that do not need themselves", circle)
        if len(self._open) >= _DEPTH:
            raise ExpressionError(f"names at most {_DEPTH} deep in each other", "more")
        path = join("let", name)
        if name not in self.names:
            self._open.append(name)
            self.names[name] = self.resolve(self.let[name], path)
            self._open.pop()
        if any(f"{broken}.".startswith(f"{path}.") for broken in self.broken):
            raise _Reported
        return self.names[name]


class _Reported(Exception):
    """A name whose own fault has been reported already."""


def _closed(text: str) -> str:
    if "${" in text:
        raise ExpressionError(
            "a closing } after ${", repr(text[text.index("${") :]), "write $${ for the text ${"
        )
    return text
