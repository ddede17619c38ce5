"""The house keeps its shape: who imports whom, what stays light, how large a file may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).parents[1]
PACKAGES = ("blocks", "composer", "search")
LONGEST = 400

# what each room may import of ours besides itself, at the top of a file or inside a function; the same table
# is in docs/architecture.md. `blocks.*` is each block's own folder, `composer` the package's front door
MAY_IMPORT = {
    "blocks.core": [],
    "blocks.*": ["blocks.core"],
    "blocks": ["blocks.core"],
    "composer.spec": ["blocks", "blocks.core", "composer.data"],
    "composer.data": ["blocks.core", "composer.spec"],
    "composer.graph": ["blocks.core", "composer.spec"],
    "composer.costs": ["blocks.core", "composer.graph", "composer.spec"],
    "composer.draw": ["blocks.core", "composer.costs", "composer.graph", "composer.spec"],
    "composer.module": ["blocks.core", "composer.costs", "composer.graph", "composer.spec"],
    "composer.training": [
        "blocks.core",
        "composer",
        "composer.costs",
        "composer.data",
        "composer.graph",
        "composer.module",
        "composer.spec",
    ],
    "composer.bench": [
        "blocks",
        "blocks.*",
        "blocks.core",
        "composer.costs",
        "composer.graph",
        "composer.module",
        "composer.spec",
    ],
    "composer.testing": [
        "blocks",
        "blocks.core",
        "composer.costs",
        "composer.graph",
        "composer.module",
        "composer.spec",
    ],
    "composer": [
        "composer.cli",
        "composer.costs",
        "composer.data",
        "composer.module",
        "composer.spec",
        "composer.training",
    ],
    "composer.cli": [
        "blocks.core",
        "composer",
        "composer.bench",
        "composer.costs",
        "composer.data",
        "composer.draw",
        "composer.graph",
        "composer.module",
        "composer.spec",
        "composer.testing",
        "composer.training",
        "search",
    ],
    "search": [
        "blocks",
        "blocks.core",
        "composer",
        "composer.costs",
        "composer.data",
        "composer.draw",
        "composer.module",
        "composer.spec",
        "composer.training",
    ],
}
# torch-free by design: what answers before anything is trained
LIGHT = (
    "blocks.find",
    "composer.cli.main",
    "composer.costs.caps",
    "composer.draw.html",
    "composer.draw.layout",
    "composer.costs.plan",
)
HEAVY = ("torch", "triton", "numpy", "lightning", "optuna", "safetensors", "rich.console")


def named(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {named(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The modules of ours that import statements name."""
    for node in nodes:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            full = [f"{node.module}.{name}" for name in names]
            names = [name if name in FILES else str(node.module) for name in full]
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


def at_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """The statements that run when a module is imported."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from at_import(node.orelse)
            continue
        yield node
        for field in ("body", "orelse", "finalbody", "handlers"):
            yield from at_import(getattr(node, field, []))


def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def room(module: str) -> str:
    parts = module.split(".")
    if parts[0] == "search" or len(parts) == 1:
        return parts[0]
    folder = ".".join(parts[:2])
    if not (ROOT / parts[0] / parts[1]).is_dir():
        return parts[0]
    return folder if parts[0] == "composer" or folder == "blocks.core" else "blocks.*"


def test_imports_lead_only_where_they_may() -> None:
    wrong = [
        f"{module} imports {name}"
        for module in FILES
        for name in imported(ast.walk(tree(module)))
        if not may_import(module, name)
    ]
    assert wrong == []


def may_import(module: str, name: str) -> bool:
    here, there = room(module), room(name)
    if here == there:
        # one block knows nothing of another
        return here != "blocks.*" or module.split(".")[1] == name.split(".")[1]
    return there in MAY_IMPORT[here]


def test_only_the_commands_that_check_or_run_a_search_know_of_it() -> None:
    found = {
        module
        for module in FILES
        if not module.startswith("search")
        and any(name.startswith("search") for name in imported(ast.walk(tree(module))))
    }
    commands = {"check", "search", "reporting", "main"}
    assert found == {f"composer.cli.{name}" for name in commands}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = nx.DiGraph(
        (module, name)
        for module in FILES
        for name in imported(at_import(tree(module).body))
        if name != module
    )
    assert graph.number_of_edges() > 100
    assert list(nx.simple_cycles(graph)) == []


def test_the_table_of_rooms_is_in_the_docs() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name, others in MAY_IMPORT.items():
        told = ", ".join(f"`{other}`" for other in others) or "none of ours"
        assert f"| `{name}` | {told} |" in page


def test_what_answers_at_once_imports_nothing_heavy() -> None:
    code = (
        f"import sys, composer, {', '.join(LIGHT)}; composer.cost('specs/dreamer-tiny.yaml'); "
        "composer.cli.main.main(['check', 'specs/space.yaml']); "
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_process_has_a_time_limit() -> None:
    unlimited = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for folder in (*PACKAGES, "tests", "docs")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func)
        in {f"subprocess.{name}" for name in ("run", "call", "check_call", "check_output")}
        and "timeout" not in {keyword.arg for keyword in call.keywords}
    ]
    assert unlimited == []


def test_files_are_short_enough_to_read() -> None:
    lines = {
        path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines())
        for folder in (*PACKAGES, "docs", "tests")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {path: count for path, count in lines.items() if count > LONGEST} == {}


def test_nothing_points_into_the_machine_it_was_written_on() -> None:
    path = re.compile(r"(?<![\w.:/-])/(work|home|root|Users|opt|mnt)/\w")
    found = [
        f"{file.relative_to(ROOT)}: {match[0]}"
        for folder in (*PACKAGES, "docs", "specs", "tests", ".ci", ".github")
        for file in sorted((ROOT / folder).rglob("*"))
        if file.suffix in (".py", ".md", ".yaml", ".yml", ".json", ".txt", ".svg") or file.name == "run"
        for match in [path.search(file.read_text(encoding="utf-8"))]
        if match
    ]
    assert found == []


def test_the_licence_is_apache_2_and_filled_in() -> None:
    from hashlib import sha256

    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    blank = text.replace("Copyright 2026 The composer authors", "Copyright [yyyy] [name of copyright owner]")
    assert blank != text
    # the text at https://www.apache.org/licenses/LICENSE-2.0.txt
    published = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert sha256(blank.encode()).hexdigest() == published
