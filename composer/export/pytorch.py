"""A model as one file of plain PyTorch, and its weights under the names that they have there."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from blocks.ir.decoding import LOCAL
from blocks.ir.graph import Graph, Loop
from blocks.ir.kernel import Target
from blocks.ir.operation import Value
from blocks.ir.walk import Place, graphs, operations
from blocks.primitives.each_step import EachStep
from blocks.primitives.operations import Input
from blocks.primitives.random import digest
from composer.export.by_autograd import with_gradients_by_autograd
from composer.export.code import Body, Classes, Names
from composer.export.inline import Inliner
from composer.graph.lowering.build import build
from composer.graph.passes.choose_kernels import choose_kernels
from composer.graph.passes.dead_code import dead_code
from composer.graph.passes.infer_types import infer_types
from composer.graph.passes.number_slots import number_slots
from composer.graph.passes.some_tokens import nodes_of_some
from composer.graph.passes.tie_weights import tie_weights
from composer.language.description.show import resolved_yaml
from composer.language.schema.spec import Spec
from composer.module.generation.decoding_graph import undecodable
from composer.module.model import ComposedModel


@dataclass(frozen=True)
class Exported:
    """A model as source.

    Attributes:
        source: a Python module with a class `Model` and a function `load`.
        weights: the tensors of its `state_dict`.
        names: the name there of each tensor of ours, by its name in our `state_dict`.
        uncached: why it keeps nothing of earlier tokens; "" where it does.
    """

    source: str
    weights: dict[str, Tensor]
    names: Names
    uncached: str


def export(model: ComposedModel) -> Exported:
    """Return a model, as its spec says, in plain PyTorch."""
    functions = Inliner()
    graph = with_gradients_by_autograd(plain_graph(model.spec))
    uncached = undecodable(graph, graph.outputs[0])
    for path in _functions(graph, cached=not uncached):
        functions.function(path)
    taken = {"Model", "load", "torch", "nn", "F", "Path", *functions.taken()}
    classes = Classes(functions, taken, cached=not uncached)
    names = _model(classes, graph, model)
    tensors = model.state_dict()
    weights = {theirs: tensors[ours].contiguous() for ours, theirs in names.items() if ours in tensors}
    return Exported(_file(model.spec, functions, classes), weights, names, uncached)


def write(model: ComposedModel, folder: Path) -> list[Path]:
    """Write a model into a folder, as `model.py` and `model.safetensors`; return the files."""
    from safetensors.torch import save_file

    made = export(model)
    folder.mkdir(parents=True, exist_ok=True)
    code, weights = folder / "model.py", folder / "model.safetensors"
    code.write_text(made.source, encoding="utf-8")
    save_file(made.weights, weights, {"format": "pt"})
    return [code, weights]


def plain_graph(spec: Spec) -> Graph:
    """Return the graph of a spec with one operation for each thing it does, none of them fused."""
    graph = dead_code(tie_weights(number_slots(build(spec))))
    return choose_kernels(infer_types(graph), Target(portable=True))


def _functions(graph: Graph, cached: bool) -> list[str]:
    """Return the functions that a graph calls, in order."""
    functions = dict.fromkeys(["blocks.kernels.past:Past"] if cached else [])
    for body, _ in graphs(graph):
        some = nodes_of_some(body)
        for name, operation, node in operations(body):
            if isinstance(operation, Loop | Input):
                continue
            of = operation.operation.kernels[-1] if isinstance(operation, EachStep) else node.kernel
            functions |= dict.fromkeys(filter(None, (of.function, node.kernel.prepare, operation.update)))
            if cached and operation.decoding != LOCAL:
                decoding = operation.decoding_of_some if name in some else operation.decoding
                functions |= dict.fromkeys(filter(None, [decoding]))
    return [*functions]


_MODEL = '''class Model(nn.Module):
    """{name}: logits [B, S, vocab] of tokens [B, S]; with targets [B, S] also the loss (without -100).{about}
    """

    context = {context}
    vocab = {vocab}

{constructor}

    def forward(self, tokens, targets=None{past}):
{keys}{to_logits}{moved}
        if targets is None:
            return {logits}
{to_loss}
        return {logits}, {loss}

    @torch.no_grad()
    def generate(self, tokens, max_new_tokens, temperature=1.0, top_k=None, top_p=1.0, stop=()):
        """Continue tokens [B, S], by the likeliest ones where the temperature is 0.

        Others are sampled among the `top_k` likeliest and the fewest whose probabilities sum to `top_p`.
        A row ends after any token of `stop`, with which it is filled as long as other rows go on.
        """
        training, prompt, device = self.training, tokens.shape[1], tokens.device
        if prompt + max_new_tokens > self.context:
            raise ValueError(f"{{prompt}} tokens and {{max_new_tokens}} new ones: expected at most {context}")
        self.eval()
        stop = torch.tensor([stop] if isinstance(stop, int) else [*stop], dtype=tokens.dtype, device=device)
        ended = torch.zeros_like(tokens[:, :1], dtype=torch.bool)
        # on the device, which is waited for every {every} tokens: whether all logits were finite, whether any
        # row goes on, and for how many tokens each was so
        finite = running = torch.ones((), dtype=torch.bool, device=device)
        counts = torch.zeros(2, dtype=torch.int64, device=device)
{first}        for number in range(max_new_tokens):
            if number and number % {every} == 0 and not (finite & running):
                break
            scores = self({given})[:, -1]
            finite = finite & scores.isfinite().all()
            scores = torch.where(finite, scores, 0.0)
            if temperature == 0:
                following = scores.argmax(-1, keepdim=True)
            else:
                shares, likeliest = (scores / temperature).softmax(-1).topk(min(top_k or {vocab}, {vocab}))
                before = shares.cumsum(-1) - shares
                shares = shares * (before < top_p * shares.sum(-1, keepdim=True))
                following = likeliest.gather(-1, torch.multinomial(shares, 1))
            following = torch.where(ended, tokens[:, -1:], following)
            tokens = torch.cat((tokens, following), 1)
            counts += torch.stack((finite, running))
            ended = ended | torch.isin(following, stop)
            running = running & ~ended.all()
{then}        self.train(training)
        sound, made = counts.tolist()
        if not finite:
            raise ValueError(f"logits after {{prompt + sound}} tokens are NaN or inf: broken weights?")
        return tokens[:, : prompt + made]
{update}'''


_EVERY = 16
"""How many tokens are generated between two looks at whether all rows have ended."""
_CACHED = {
    "about": """

    With a `Past` these tokens come after those that it has: any number of first ones, then one at a time.""",
    "past": ", past=None",
    "moved": """
        if past is not None:
            past.position += tokens.shape[1]""",
    "first": """        given, past = tokens, Past(tokens.shape[1] + max_new_tokens)
""",
    "given": "given, past=past",
    "then": """            given = following
""",
}
_UNCACHED = {"about": "", "past": "", "moved": "", "first": "", "given": "tokens", "then": ""}
"""What the class has where keys and values of earlier tokens are kept, and where nothing is."""


def _model(classes: Classes, graph: Graph, model: ComposedModel) -> Names:
    """Write the class of the model; return the names of its tensors."""
    body = Body(classes, graph, Place())
    body.take({Value(name): "self.training" if name == "training" else name for name in graph.inputs})
    logits, *_, loss = graph.outputs
    first = _needed(graph, logits)
    to_logits = [*body.lines(first.__contains__)]
    to_loss = [*body.lines(lambda name: name not in first)]
    keys = ""
    if "key" in graph.inputs:
        seed = model.spec.train.seed if model.spec.train else 0
        fixed = digest(f"{seed}:evaluation")
        keys = (
            "        # what random numbers are hashed from: the same for all rows outside of training\n"
            "        key = torch.randint(-(2**63), 2**63 - 1, tokens.shape[:1], device=tokens.device)\n"
            f"        key = key if self.training else torch.full_like(key, {fixed})\n"
        )
    classes.written.append(
        _MODEL.format(
            name=model.spec.name,
            context=model.spec.model.context,
            vocab=model.spec.model.vocab,
            constructor=_indented(body.constructor(), 1),
            keys=keys,
            to_logits=_indented(to_logits, 2),
            to_loss=_indented(to_loss, 2),
            logits=body.value(logits),
            loss=body.value(loss),
            update=_update(classes, graph, body),
            every=_EVERY,
            **(_CACHED if classes.cached else _UNCACHED),
        )
    )
    names: Names = body.names
    return names


def _needed(graph: Graph, value: Value) -> set[str]:
    needed = {value.node}
    for name in reversed([*graph]):
        if name in needed:
            needed.update(graph.predecessors(name))
    return needed


def _update(classes: Classes, graph: Graph, body: Body) -> str:
    """Return the method that moves states after an optimizer step, where there are some."""
    calls = []
    for inner, place in graphs(graph):
        for _, operation, node in operations(inner):
            if isinstance(operation, Loop | Input) or not operation.update:
                continue
            held = [name for name in node.weights if not inner.weights[name].trained]
            function = classes.functions.function(operation.update)
            keywords = "".join(f", {key}={each!r}" for key, each in operation.update_arguments().items())
            for path in _paths(graph, place):
                tensors = ", ".join(f'state["{body.names[f"{path}{name}"]}"]' for name in held)
                calls.append(f"        {function}({tensors}{keywords})")
    if not calls:
        return ""
    return (
        "\n    @torch.no_grad()\n    def update_expert_balance(self):\n"
        '        """Balance experts by counted loads; to be called after each optimizer step."""\n'
        "        state = dict(self.named_buffers())\n" + "\n".join(calls) + "\n"
    )


def _paths(graph: Graph, place: Place) -> list[str]:
    """Return the paths, in a `state_dict`, of each set of weights of a body."""
    paths, loops = [""], graph
    for name, _ in place.loops:
        loop = loops.loop(name)
        parts = ["step"] if loop.tied else [f"layers.{number}" for number in range(loop.trips)]
        paths, loops = [f"{path}{name}.{part}." for path in paths for part in parts], loop.body
    return paths


def _indented(lines: list[str], levels: int) -> str:
    return "\n".join(f"{'    ' * levels}{line}" if line else "" for line in lines)


_FILE = '''"""{name} in plain PyTorch, written from its spec, which is at the end of this file.

`load()` returns the model with the weights beside this file; those of a `Model()` are not initialised. The
file has the functions that the model calls, then a class for each kind of step or layer, then `Model`. In
comments, B is the batch, S the sequence, and `chosen` the tokens of a row that run a step, where not all do.
"""

from __future__ import annotations

{imports}


{definitions}


{classes}


def load(file=None, device="cpu"):
    """Return the model with the weights of a file, by default of `model.safetensors` beside this one."""
    model = Model()
    weights = load_file(file or Path(__file__).with_name("model.safetensors"), device=device)
    model.load_state_dict(weights)
    return model.to(device)


# The spec:
#
{spec}
'''

_ALWAYS = {
    "from pathlib import Path",
    "import torch",
    "from torch import nn",
    "from safetensors.torch import load_file",
}


def _file(spec: Spec, functions: Inliner, classes: Classes) -> str:
    return _FILE.format(
        name=spec.name,
        imports=_grouped({*functions.imports(), *_ALWAYS}),
        definitions="\n\n".join(functions.definitions()).rstrip(),
        classes="\n\n".join(classes.written).rstrip(),
        spec="".join(f"# {line}".rstrip() + "\n" for line in resolved_yaml(spec).splitlines()).rstrip(),
    )


def _grouped(imports: set[str]) -> str:
    """Return import statements with those of Python's own library first."""
    own = {line for line in imports if line.split()[1].partition(".")[0] in sys.stdlib_module_names}
    groups = (_merged(each) for each in (own, imports - own))
    return "\n\n".join("\n".join(each) for each in groups)


def _merged(imports: set[str]) -> list[str]:
    """Return import statements in order, one for each module."""
    names: dict[str, list[str]] = {}
    for line in sorted(imports):
        module, _, name = line.partition(" import ")
        names.setdefault(module, []).append(name)
    lines = [
        f"{module} import {', '.join(each)}" if each != [""] else module for module, each in names.items()
    ]
    return sorted(lines, key=lambda line: (line.startswith("from"), line))
