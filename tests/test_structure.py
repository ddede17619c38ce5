"""The house keeps its shape: who imports whom, what stays light, how large a file may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).parents[1]
PACKAGES = ("blocks", "composer", "search")
LONGEST = 400

# the rooms from the ground up: a file may import from its own room and from those below it; the same
# list is in docs/architecture.md. `blocks.*` is each block's own folder: one block knows nothing of another
FLOORS = [
    "blocks.ir",
    "blocks.kernels",
    "blocks.primitives",
    "blocks.base",
    "blocks.*",
    "blocks",
    "composer.settings",
    "composer.data.base",
    "composer.data.tokens",
    "composer.data.tasks",
    "composer.data",
    "composer.measures",
    "composer.language.schema",
    "composer.language.parsing",
    "composer.language.description",
    "composer.language.validation",
    "composer.language",
    "composer.graph.lowering",
    "composer.graph.passes",
    "composer.graph.taps",
    "composer.graph",
    "composer.costs.base",
    "composer.costs.memory",
    "composer.costs.time",
    "composer.costs.counting",
    "composer.costs.tracing",
    "composer.costs.fitting",
    "composer.costs.matching",
    "composer.draw",
    "composer.page",
    "composer.module.emission",
    "composer.module.capture",
    "composer.module.generation",
    "composer.module.optimization",
    "composer.module",
    "composer.export",
    "composer.launches",
    "composer.training.data",
    "composer.training.folder",
    "composer.data.building.base",
    "composer.data.building.formats",
    "composer.data.building",
    "composer.training.processes",
    "composer.training.capture",
    "composer.training",
    "composer.training.questions",
    "composer.inspect.base",
    "composer.inspect.measures",
    "composer.inspect",
    "composer.testing",
    "composer.bench.measuring",
    "composer.bench.rivals",
    "composer.bench.parts",
    "composer.bench",
    "composer",
    "composer.cli.terminal",
    "composer.cli.commands.machine",
    "composer.cli.commands.data",
    "composer.cli.commands.trained",
    "composer.cli.commands",
    "composer.cli",
    "search",
    "search.store",
    "search.compare",
    "search.propose",
    "search.propose.samplers",
    "search.progress",
    "search.run",
    "search.launch",
    "search.launch.launchers",
    "search.report",
    "search.study",
    "search.testing",
    "search.commands",
]
MOST_FILES = 17
# torch-free by design: what answers before anything is trained
LIGHT = (
    "blocks.find",
    "composer.cli.main",
    "composer.costs.fitting.caps",
    "composer.draw.html",
    "composer.draw.layout",
    "composer.costs.counting.plan",
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


def quoted(module: str) -> Iterator[str]:
    """The modules of ours that operations name in strings, alone or as `package.module:function`."""
    if not module.startswith(("blocks.", "composer.graph.")):
        return
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            if "." in name and name in FILES:
                yield name


def at_import(body: list[ast.stmt], types: bool = False) -> Iterator[ast.AST]:
    """The statements that run when a module is imported; with `types` those for type checkers too."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if not types and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from at_import(node.orelse)
            continue
        yield node
        for field in ("body", "orelse", "finalbody", "handlers"):
            yield from at_import(getattr(node, field, []), types)


def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def room(module: str) -> str:
    if module == "composer.__main__":
        return "composer.cli"
    folder = FILES[module].parent.relative_to(ROOT).as_posix().replace("/", ".")
    return folder if folder in FLOORS else "blocks.*"


def test_imports_run_downwards() -> None:
    wrong = [
        f"{module} imports {name}"
        for module in FILES
        for name in (*imported(ast.walk(tree(module))), *quoted(module))
        if not may_import(module, name)
    ]
    assert wrong == []


def may_import(module: str, name: str) -> bool:
    here, there = FLOORS.index(room(module)), FLOORS.index(room(name))
    if here == there:
        return FLOORS[here] != "blocks.*" or module.split(".")[1] == name.split(".")[1]
    return there < here


def test_rooms_are_small_enough_to_find_a_file_in() -> None:
    files = [*FILES.values(), *(ROOT / "tests").rglob("*.py")]
    counts = Counter(path.parent for path in files if path.name != "__init__.py")
    assert {str(folder): count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_modules_of_tests_have_names_of_their_own() -> None:
    # pytest and `import` find them by their names alone
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = nx.DiGraph(
        (module, name)
        for module in FILES
        # in composer imports for types alone run one way too
        for name in imported(at_import(tree(module).body, types=module.startswith("composer.")))
        if name != module
    )
    assert graph.number_of_edges() > 100
    assert list(nx.simple_cycles(graph)) == []


def test_the_rooms_are_in_the_docs() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z._*]+)` \|", page, flags=re.MULTILINE)[: len(FLOORS)] == FLOORS


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


def test_checking_a_spec_imports_only_what_it_needs() -> None:
    others = (
        "search",
        "rich",
        "composer.language.space",
        "composer.costs.time",
        "composer.cli.commands.cost",
    )
    code = (
        "import sys, composer.cli.main; composer.cli.main.main(['check', 'specs/dreamer-tiny.yaml']); "
        f"print(sorted(set({others!r}) & set(sys.modules)))"
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


def test_public_methods_of_blocks_have_docstrings_or_override_documented_ones() -> None:
    documented, missing = set(), []
    for path in sorted((ROOT / "blocks").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
                continue
            methods = [
                each for each in node.body if isinstance(each, ast.FunctionDef) and each.name[0] != "_"
            ]
            if path.parent.name in ("ir", "base"):
                documented |= {each.name for each in methods if ast.get_docstring(each)}
            missing += [(path, each) for each in methods if not ast.get_docstring(each)]
    assert [f"{path}:{each.lineno}" for path, each in missing if each.name not in documented] == []


def test_nothing_points_into_the_machine_it_was_written_on() -> None:
    path = re.compile(r"(?<![\w.:/-])/(work|home|root|Users|opt|mnt)/\w")
    results = [
        f"{file.relative_to(ROOT)}: {match[0]}"
        for folder in (*PACKAGES, "docs", "specs", "tests", ".ci", ".github")
        for file in sorted((ROOT / folder).rglob("*"))
        if file.suffix in (".py", ".md", ".yaml", ".yml", ".json", ".txt", ".svg")
        or (file.name == "run" and file.is_file())
        for match in [path.search(file.read_text(encoding="utf-8"))]
        if match
    ]
    assert results == []


def test_the_licence_is_apache_2_and_filled_in() -> None:
    from hashlib import sha256

    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    blank = text.replace("Copyright 2026 The composer authors", "Copyright [yyyy] [name of copyright owner]")
    assert blank != text
    # the text at https://www.apache.org/licenses/LICENSE-2.0.txt
    published = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert sha256(blank.encode()).hexdigest() == published
