"""Everything in the tree that is generated: golden files, the schema, and parts of the documentation.

`make golden` writes it; tests/test_generated.py holds the tree to it. In a Markdown file the text between
`<!-- generated: KIND ARGUMENT -->` and `<!-- end -->` is made by the function of that kind below.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from blocks.base.config import Config
from blocks.base.docstrings import docstring, field_docs
from blocks.base.wiring import WiringConfig
from blocks.find import wiring_options
from composer import compile, cost
from composer.cli.main import main
from composer.costs.base.units import count_text
from composer.costs.counting.checkpoint import checkpoint_size
from composer.costs.counting.compare import cost_rows
from composer.costs.counting.plan import make_plan
from composer.costs.time.devices import NAMED
from composer.costs.time.roofline import step_time
from composer.draw.layout import picture
from composer.draw.svg import svg
from composer.inspect.find import find_measures
from composer.language.description.json_schema import schema_text
from composer.language.description.show import resolved_yaml
from composer.language.load import is_space, load, read_tree
from composer.language.parsing.yaml12 import scalar
from composer.language.schema.identity import arch_hash, run_hash
from composer.language.schema.samplers import samplers
from composer.language.schema.unions import WiringUnion
from composer.language.space import Space
from composer.language.validation.describe_types import fields, words
from composer.measures.registry import MEASURES
from composer.module.emission.stage import source
from composer.settings.errors import listed
from composer.settings.types import DefaultsTo
from composer.testing.modes import EQUAL, EXCEPTIONS
from composer.training.folder.files import write_text
from search.propose.sampler import find_sampler

# beside this file, which tests load by its path
sys.path.insert(0, str(Path(__file__).parent))
from formulas import formulas
from option_examples import field_rows, wiring_rows
from study_results import study_results

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
SPECS = sorted(path for path in (ROOT / "specs").glob("*.yaml") if not is_space(read_tree(path)))
SPACES = sorted(path for path in (ROOT / "specs").glob("*.yaml") if is_space(read_tree(path)))
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "blocks/*/README.md")

_REGION = re.compile(r"(<!-- generated: ([\w-]+) ?([^\n]*) -->\n).*?(<!-- end -->)", re.DOTALL)
_DIGITS = 6


def files() -> dict[Path, Callable[[], str]]:
    """Map every generated file to what makes what it should hold now."""
    targets: dict[Path, Callable[[], str]] = {ROOT / "specs" / "composer.schema.json": schema_text}
    targets[ROOT / "docs" / "images" / "dreamer-tiny.svg"] = partial(drawing, "dreamer-tiny")
    for path in SPECS:
        targets |= {GOLDEN / path.stem / name: partial(make, path) for name, make in GOLDEN_OF_SPECS.items()}
    for path in SPACES:
        targets |= {GOLDEN / path.stem / name: partial(make, path) for name, make in GOLDEN_OF_SPACES.items()}
    for pattern in PAGES:
        targets |= {page: partial(refreshed_page, page) for page in sorted(ROOT.glob(pattern))}
    return targets


def drawing(name: str) -> str:
    """Draw a shipped spec."""
    return svg(picture(load(ROOT / "specs" / f"{name}.yaml")))


def golden_costs(path: Path) -> str:
    """Count the costs of a spec."""
    spec = load(path)
    plan = make_plan(spec)
    costs = {**plan.costs.to_dict(), "checkpoint": asdict(checkpoint_size(spec, plan.graph))}
    costs["h100_step_seconds"] = step_time(spec, plan.graph, NAMED["h100"]).seconds
    return f"{json.dumps(_rounded(costs), indent=1)}\n"


def golden_identity(path: Path) -> str:
    """Name the hashes of a spec."""
    spec = load(path)
    return f"arch {arch_hash(spec)}\nrun  {run_hash(spec)}\n"


GOLDEN_OF_SPECS: dict[str, Callable[[Path], str]] = {
    "resolved.yaml": lambda path: resolved_yaml(load(path)),
    "cost.json": golden_costs,
    "plan.txt": lambda path: make_plan(load(path)).text,
    "identity.txt": golden_identity,
}
GOLDEN_OF_SPACES: dict[str, Callable[[Path], str]] = {
    "parameters.txt": lambda path: f"{Space(read_tree(path)).describe()}\n",
    "point.yaml": lambda path: resolved_yaml(Space(read_tree(path)).example().spec),
}


def refreshed_page(page: Path) -> str:
    """Return a page of the documentation with its generated parts made again."""
    return refreshed(page.read_text(encoding="utf-8"))


def refreshed(page: str) -> str:
    """Return a Markdown page with its generated parts made again."""

    def made(match: re.Match[str]) -> str:
        head, kind, argument, end = match.groups()
        return f"{head}\n{KINDS[kind](argument)}\n{end}"

    return _REGION.sub(made, page)


def field_table(argument: str) -> str:
    """Make the table of a config's fields, of `module:Class`."""
    module, name = argument.split(":")
    config: type[Config] = getattr(import_module(module), name)
    docs, hints = field_docs(config), fields(config)
    rows = [["field", "value", "default", "meaning"]]
    for field, info in config.model_fields.items():
        if field in ("type", "task"):
            continue
        key = info.alias or field
        meaning, _, computed = " ".join(docs[field].split()).partition(" Default: ")
        rows.append([f"`{key}`", _value(hints[key]), computed.rstrip(".") or _default(info), meaning])
    return _table(rows)


def wiring_table(owners: str) -> str:
    """Make the table of the values that the keys of wiring of exactly these owners take."""
    rows = [["key", "value", "meaning"]]
    for options in wiring_options().values():
        for number, option in enumerate(each for each in options.values() if " ".join(each.owner) == owners):
            docs, hints = field_docs(option), fields(option)
            named = {name: field.alias or name for name, field in option.model_fields.items()}
            inside = ", ".join(f"{key}: {_without_examples(hints[key])}" for key in named.values())
            meanings = [docstring(option), *(docs[name] for name in named)]
            key = "" if number else f"`{option.key}`"
            value = f"`{{{inside}}}`" if inside else f"`{option.name}`"
            rows.append([key, value, " ".join(" ".join(meanings).split())])
    return _table(rows)


def wiring_examples(owner: str) -> str:
    """Make the table of examples of the options whose key belongs to this owner first."""
    return _table(wiring_rows(owner))


def field_examples(kind: str) -> str:
    """Make the table of examples of the fields of `model`, or of a type of blocks."""
    return _table(field_rows(kind))


def costs_table(_: str) -> str:
    """Make the table of what every shipped spec costs."""
    labels, *costs = cost_rows([cost(path) for path in SPECS])
    names = [f"[{path.stem}](../specs/{path.name})" for path in SPECS]
    rows = [["spec", *labels], *([name, *each] for name, each in zip(names, costs, strict=True))]
    return _table(rows, right=range(1, len(rows[0])))


def measures_table(_: str) -> str:
    """Make the table of the cost measures."""
    rows = [["measure", "unit", "matched within", "meaning"]]
    for name, measure in MEASURES.items():
        within = "" if measure.tolerance is None else f"{measure.tolerance:g} %"
        rows.append(
            [f"`{name}`", measure.unit, within, measure.meaning.replace("{", "`{").replace("}", "}`")]
        )
    return _table(rows)


def samplers_table(_: str) -> str:
    """Make the table of the samplers of a search."""
    rows = [["`sampler`", ""]]
    for name in samplers():
        sampler = find_sampler(name)
        install = f"; `pip install '{sampler.install}'`" if sampler.install else ""
        rows.append([f"`{name}`", sampler.meaning + install])
    return _table(rows)


def file_copy(argument: str) -> str:
    """Show a file of the tree as it is, but for an editor's modeline."""
    lines = (ROOT / argument).read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith("# yaml-language-server")]
    return _fenced(Path(argument).suffix.lstrip("."), "\n".join(kept))


def step_code(argument: str) -> str:
    """Show the code that a stage of a spec is emitted as, of `spec stage`."""
    path, stage = argument.split()
    code = dict(source(compile(ROOT / path)))[stage]
    command = [sys.executable, "-m", "ruff", "format", "--line-length=110", "-"]
    shaped = subprocess.run(
        command, input=code, capture_output=True, text=True, check=True, timeout=120
    ).stdout
    return _fenced("python", shaped.rstrip())


def output(argument: str) -> str:
    """Show a command and what it prints to a pipe."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.chdir(ROOT):
        main(shlex.split(argument)[1:])
    printed = "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines())
    return _fenced("console", f"$ {argument}\n{printed}")


def output_lines(argument: str) -> str:
    """Show a command and some of the lines it prints, of `first:last command`."""
    lines, command = argument.split(" ", 1)
    first, last = (int(number) if number else None for number in lines.split(":"))
    head, *printed, end = output(command).rstrip("\n").splitlines()
    return "\n".join([head, printed[0], *printed[1:][first:last], end]) + "\n"


def arms_table(argument: str) -> str:
    """Show what `composer arms` prints for a spec and options, but for where it wrote."""
    spec, *options = shlex.split(argument)
    out = io.StringIO()
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(out):
        main(["arms", str(ROOT / spec), *options, "--out", f"{folder}/arms"])
    printed = [line.rstrip() for line in out.getvalue().splitlines() if not line.startswith("written to")]
    command = " ".join(["$ composer arms", spec, *options, "--out arms"])
    return _fenced("console", "\n".join([command, *printed]))


def formula_table(argument: str) -> str:
    """Make the table of what the operations of a block cost, of its type and fields, or of `model`.

    `depth_attention span=exclusive`: numbers become symbols, so that only which fields are given matters.
    """
    name, *options = argument.split()
    given = {key: scalar(value) for key, _, value in (option.partition("=") for option in options)}
    kind = "feed_forward" if name == "model" else name
    tree = {
        "schema": 1,
        "name": "formulas",
        "model": {"width": 64, "vocab": 256, "context": 128},
        "blocks": {"block": {"type": kind, **SIZES[kind], **({} if name == "model" else given)}},
        "stages": [{"recur": 4, "step": ["block"], "inject": "concat"}],
    }
    rows: dict[str, dict[str, str]] = {}
    for block, operation, quantity, text in formulas(tree):
        if (block == "") == (name == "model"):
            rows.setdefault(operation, {})[quantity] = f"`{text}`"
    columns = {"forward": "FLOPs forward", "backward": "FLOPs backward", "params": "parameters"}
    columns |= {"active_params": "active parameters", "kept": "bytes kept inside"}
    for row in rows.values():
        if row.get("active_params") == row.get("params"):
            row.pop("active_params", None)
    columns = {key: title for key, title in columns.items() if any(key in row for row in rows.values())}
    table = [[f"`{operation}`", *(row.get(key, "") for key in columns)] for operation, row in rows.items()]
    return _table([["operation", *columns.values()], *table])


SIZES = {
    "sequence_attention": {"heads": 4, "kv_heads": 2, "head_dim": 16},
    "depth_attention": {"heads": 4, "kv_heads": 2, "head_dim": 16},
    "expert_attention": {"experts": 8, "active": 2, "hidden": 32},
    "feed_forward": {"hidden": 128},
}


def device_table(_: str) -> str:
    """Make the table of the devices that are known before any calibration."""
    rows = [["device", "fp32", "bf16", "copies", "source"]]
    for name, device in NAMED.items():
        rates = [f"{count_text(rate)}FLOP/s" for rate in (device.fp32, device.bf16)]
        rows.append([f"`{name}`", *rates, f"{count_text(device.bandwidth)}B/s", device.source])
    return _table(rows, right=range(1, 4))


def ways_table(_: str) -> str:
    """Make the table of what holds of options in each way of training."""
    of_models = (key for key, options in wiring_options().items() if _of_models(next(iter(options.values()))))
    options = listed([f"`{key}`" for key in of_models])
    every = f"every value of {options}, fields of `model`, blocks"
    rows = [[every if not n else "", way, held] for n, (way, held) in enumerate(EQUAL.items())]
    return _table([["options", "trained by", "what holds"], *rows, *map(list, EXCEPTIONS)])


def _of_models(option: type[WiringConfig]) -> bool:
    return option.owner != ("train",)


def inspection_table(_: str) -> str:
    """Make the table of the definitions of what `composer inspect` measures."""
    rows = [[f"`{each.name}`", " ".join(each.definition)] for each in find_measures()]
    return _table([["measure", "definition"], *([name, text.replace("|", "\\|")] for name, text in rows)])


KINDS = {
    "arms": arms_table,
    "code": step_code,
    "costs": costs_table,
    "field-examples": field_examples,
    "devices": device_table,
    "fields": field_table,
    "file": file_copy,
    "formulas": formula_table,
    "inspection": inspection_table,
    "lines": output_lines,
    "measures": measures_table,
    "run": output,
    "samplers": samplers_table,
    "study": study_results,
    "ways": ways_table,
    "wiring": wiring_table,
    "wiring-examples": wiring_examples,
}


def _without_examples(hint: Any) -> str:
    return words(hint).replace(", such as 64 or 4Ki", "")


def _value(hint: Any) -> str:
    text = words(hint).partition(", such as")[0]
    text = "a mapping" if text.startswith("a mapping of") else text
    return text.replace("|", "\\|").replace("{", "`{").replace("}", "}`")


def _default(info: Any) -> str:
    if info.is_required():
        return next((f"`{item}`" for item in info.metadata if isinstance(item, DefaultsTo)), "required")
    if isinstance(info.default, WiringConfig):
        return f"`{info.default.name}`"
    if isinstance(info.default, Config):
        return "below"
    if any(isinstance(item, WiringUnion) and item.optional for item in info.metadata):
        return "from around it"
    if info.default in (None, ()):
        return ""
    return f"`{json.dumps(info.default)}`".replace('"', "")


def _table(rows: list[list[str]], right: range = range(0)) -> str:
    rule = ["---:" if column in right else "---" for column in range(len(rows[0]))]
    return "".join(f"| {' | '.join(row)} |\n" for row in [rows[0], rule, *rows[1:]])


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```\n"


def _rounded(value: Any) -> Any:
    """Round floats, so that the order of a sum does not show."""
    match value:
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
        case list():
            return [_rounded(item) for item in value]
        case float():
            return float(f"{value:.{_DIGITS}g}")
        case _:
            return value


def stale(folder: Path = GOLDEN) -> Iterator[Path]:
    """Yield golden files that nothing makes any more."""
    wanted = files()
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file() and path not in wanted)


def refresh() -> None:
    """Write what is not current, remove what is stale, and say so."""
    for path, make in files().items():
        text = make()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
            print(f"wrote {path.relative_to(ROOT)}")
    for path in stale():
        path.unlink()
        print(f"removed {path.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(refresh())
