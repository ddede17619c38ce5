"""Loading a spec: read, extend, override, resolve, validate."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from composer.language.parsing.files import LONGEST, NoFile, read_bytes
from composer.language.parsing.merge import merge, override
from composer.language.parsing.missing import fill_in
from composer.language.parsing.resolve import Resolver
from composer.language.parsing.yaml12 import read
from composer.language.schema.provenance import Provenance
from composer.language.schema.spec import Spec
from composer.language.validation.semantic import semantic
from composer.language.validation.validate import build
from composer.settings.errors import Fault, SpecError, os_message, shown
from composer.settings.tree import NAME, Flaws, Node, join

_DEEPEST = 20
_FILES = 100


def load(path: str | os.PathLike[str], overrides: Sequence[str] = (), *, stored: bool = False) -> Spec:
    """Load the spec at `path`, with `overrides` such as `model.width=128` laid on top.

    In a `stored` spec, which an earlier version may have written, fields that nothing reads are no faults.

    Raises:
        SpecError: the file cannot be read, or it is not a valid spec.
    """
    return resolve_spec(read_tree(path, overrides), stored)


def loads(text: str, name: str = "<text>", overrides: Sequence[str] = ()) -> Spec:
    """Load a spec from YAML text; `extends` is relative to the current directory.

    Raises:
        SpecError: it is not a valid spec.
    """
    return resolve_spec(read_text(text, name, overrides))


def read_tree(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Node:
    """Read the file at `path` and those it extends into one tree, `overrides` on top.

    Faults that leave a tree to be checked stand in its `flaws`.

    Raises:
        SpecError: a file cannot be read, is no YAML mapping, or extends itself.
    """
    flaws = Flaws()
    return _flawed(_file(os.fspath(path), (), None, flaws), overrides, flaws)


def read_text(text: str, name: str = "<text>", overrides: Sequence[str] = ()) -> Node:
    """Read YAML text, and the files it extends, into one tree; see `read_tree`."""
    flaws = Flaws()
    return _flawed(_extended(read(text, name, flaws=flaws), "", (), flaws), overrides, flaws)


def _flawed(tree: Node, overrides: Sequence[str], flaws: Flaws) -> Node:
    """Apply overrides to a tree, and attach its faults, including those of invalid overrides."""
    for option in overrides:
        try:
            tree = override(tree, option)
        except SpecError as error:
            flaws.faults += error.faults
            flaws.unknown += [option.partition("=")[0].strip()] if "=" in option else []
    tree.flaws = flaws
    return tree


def overridden(tree: Node, overrides: Sequence[str]) -> Node:
    """Apply `path=value` overrides to a tree, in order."""
    faults: list[Fault] = []
    for option in overrides:
        try:
            tree = override(tree, option)
        except SpecError as error:
            faults += error.faults
    if faults:
        raise SpecError(faults)
    return tree


def _file(path: str, above: tuple[str, ...], asked: Fault | None, flaws: Flaws) -> Node:
    """Read one file and its parents; `asked` is the fault to raise at the place that named the file."""

    def fault(expected: str, got: str) -> SpecError:
        at = asked or Fault(path, 0, 0, "", "", "")
        return SpecError([Fault(at.file or "''", at.line, at.column, at.path, expected, got)])

    if not path:
        raise fault("the path of a file", "an empty one")
    try:
        data = read_bytes(path, ordinary=asked is not None)
    except NoFile as error:
        raise fault("an ordinary file", str(error)) from None
    except OSError as error:
        at = asked or Fault("", 0, 0, "", "", "")
        raise SpecError([replace(at, expected=os_message(error, path))]) from None
    except ValueError:
        raise fault("the path of a file", "one with a null byte in it") from None
    real = os.path.realpath(path)
    if real in above:
        raise fault("a file that does not extend itself", f"{path} again")
    if len(above) >= _DEEPEST:
        raise fault(f"at most {_DEEPEST} files extending each other", "more")
    flaws.files += 1
    if flaws.files > _FILES:
        # a fault for each file that is not read would be as much work as reading it
        raise _TooMany(fault(f"at most {_FILES} files read through extends", "more").faults)
    if len(data) > LONGEST:
        raise SpecError([Fault(path, 0, 0, "", f"at most {LONGEST} bytes", "more")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise SpecError(
                [Fault(path, 1, 1, "", "UTF-8 text", "UTF-16", "save the file as UTF-8")]
            ) from None
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        byte = f"the byte 0x{data[error.start]:02x}"
        raise SpecError(
            [Fault(path, line, column, "", "UTF-8 text", byte, "save the file as UTF-8")]
        ) from None
    return _extended(read(text, path, flaws=flaws), os.path.dirname(path), (*above, real), flaws)


class _TooMany(SpecError):
    """A fault that stops all further checks, such as an endless chain of files."""


def _extended(tree: Node, folder: str, above: tuple[str, ...], flaws: Flaws) -> Node:
    if not isinstance(tree.value, dict):
        got = "an empty file" if tree.value is None else shown(tree.plain)
        raise SpecError([Fault(*tree.place, "", "a mapping with the keys of a spec", got)])
    extends = tree.value.get("extends")
    own = Node({name: node for name, node in tree.value.items() if name != "extends"}, tree.place)
    if extends is None:
        return own
    items = extends.value if isinstance(extends.value, list) else [extends]
    faults: list[Fault] = []
    below: Node | None = None
    for item in items:
        if not isinstance(item.value, str) or not item.value:
            faults.append(item.fault("extends", "the path of a file or a list of them", shown(item.plain)))
            continue
        try:
            path = os.path.normpath(os.path.join(folder, item.value))
            parent = _file(path, above, item.fault("extends", "", ""), flaws)
            below = parent if below is None else merge(below, parent)
        except _TooMany:
            raise
        except SpecError as error:
            faults += error.faults
    if faults:
        raise SpecError(faults)
    return own if below is None else merge(below, own)


def is_space(tree: Node) -> bool:
    """Whether a merged tree is a search space."""
    return isinstance(tree.value, dict) and "search" in tree.value


def resolve_spec(tree: Node, stored: bool = False) -> Spec:
    """Make the spec of a merged tree that holds no choices; for `stored` see `load`.

    Raises:
        SpecError: with every fault of the tree.
    """
    assert isinstance(tree.value, dict)
    top = dict(tree.value)
    flaws = tree.flaws or Flaws()
    faults = list(flaws.faults)
    if "search" in top:
        got, hint = "a space, which has a `search:` section", "give it to `composer search`"
        # its choices are right where they belong
        raise SpecError([*faults, top["search"].fault("search", "a spec", got, hint, key=True)])
    if "arms" in top:
        got, hint = "a study, which has `arms:`", "give it to `composer study`"
        raise SpecError([*faults, top["arms"].fault("arms", "a spec", got, hint, key=True)])
    if "extends" in top:
        node = top.pop("extends")
        faults.append(node.fault("extends", "extends in a file only", "an option"))
    let, wrong = read_let(top.pop("let", None))
    resolver = Resolver(let)
    resolver.broken += flaws.unknown
    resolved = fill_in(
        Node({name: resolver.resolve(node, name) for name, node in top.items()}, tree.place), resolver
    )
    faults += [*wrong, *unused_let(let, resolver.names)]
    spec = finish(resolved, resolver, faults, stored)
    spec._provenance = Provenance(resolved, tree)
    return spec


def read_let(node: Node | None) -> tuple[dict[str, Node], list[Fault]]:
    """Read the `let` section: its usable names, and the faults of the others."""
    if node is None or node.value is None:
        return {}, []
    if not isinstance(node.value, dict):
        return {}, [node.fault("let", "a mapping from names to values", shown(node.plain))]
    good = {name: item for name, item in node.value.items() if NAME.fullmatch(name)}
    expected = "a name of letters, digits and _"
    strange = [item for item in node.value.items() if item[0] not in good]
    return good, [item.fault(join("let", name), expected, shown(name), key=True) for name, item in strange]


def unused_let(let: dict[str, Node], used: dict[str, Node] | set[str]) -> list[Fault]:
    """Return the faults of names that no `${}` reads."""
    unused = [(name, node) for name, node in let.items() if name not in used]
    return [
        node.fault(join("let", name), f"name {name!r} is defined but never used", "", key=True)
        for name, node in unused
    ]


def finish(tree: Node, resolver: Resolver, faults: Sequence[Fault] = (), stored: bool = False) -> Spec:
    """Validate the tree resolved by `resolver`; `faults` were found before; for `stored` see `load`.

    Raises:
        SpecError: with all faults, in the order of the files.
    """
    spec = build(Spec, tree, broken=resolver.broken)
    problems = [*faults, *resolver.faults]
    sound = spec if isinstance(spec, Spec) and not resolver.broken else None
    others = [] if isinstance(spec, Spec) else spec
    others += semantic(tree, sound, resolver.broken)
    problems += [fault for fault in others if not (resolver.hides(fault.path) or (stored and fault.unread))]
    if problems:
        raise SpecError(in_order(problems))
    assert isinstance(spec, Spec)
    spec._provenance = Provenance(tree)
    return spec


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    """Return distinct faults sorted by place."""
    return sorted(dict.fromkeys(faults), key=lambda fault: (fault.file, fault.line, fault.column))
