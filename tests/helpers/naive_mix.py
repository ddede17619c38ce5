"""Residual mixes and activations in `naive`, as plainly as possible; vectors are 1-D."""

import math

import torch


class Mix:
    """The residual mix of a stage of a row: the values so far, those of a block so far last."""

    def __init__(self, row, residual, start, sublayers):
        self.row, self.residual, self.sublayers = row, residual, sublayers
        self.values, self.partial = [start], []
        self.size = {"sublayers": 1, "blocks": sublayers}.get(residual.over, residual.over)

    def read(self, x, at, number, entry):
        """The state, what a sublayer reads and its views, where the state before it is x."""
        if number % self.residual.period:
            return x, x, {}
        reads = self.reads(entry)
        goes_on = (number + 1) % self.residual.period and number + 1 < self.sublayers
        state = {"residual"} if goes_on or self.residual.of == "states" else set()
        apart = [view for view in self.residual.views if view in reads | state]
        plain = reads - {*apart}  # what reads the mix that is nobody's own
        names = ["input"] * bool(plain or state - {*apart}) + apart
        # weights of tokens come from one hidden layer
        mixes = {
            each: self.mixed("_".join([f"{at}.mix", each][: 1 + (each != "input")]), at) for each in names
        }
        main = "input" if plain else apart[0]
        state = mixes.get("residual", mixes.get("input", mixes[main]))
        return state, mixes[main], {each: mixes[each] for each in apart if each not in ("residual", main)}

    def reads(self, entry):
        names = getattr(entry, "parallel", (getattr(entry, "use", entry),))
        results = set()
        for block in (self.row.spec.blocks[name] for name in names):
            attends = block.type in ("sequence_attention", "depth_attention")
            results |= set("q" if getattr(block, "kv_from", None) else "qkv") if attends else {"input"}
        gates = getattr(entry, "combine", None) and entry.combine.name == "gate"
        return results | {"input"} if gates else results

    def add(self, x, y, number):
        """The next state after an output y of a sublayer that read x."""
        x = [a + b for a, b in zip(x, y, strict=True)]
        output = [a + b for a, b in zip(*self.partial, y, strict=True)] if self.partial else y
        self.partial = [x if self.residual.of == "states" else output]
        if (number + 1) % self.size == 0 or number + 1 == self.sublayers:
            self.values, self.partial = self.values + self.partial, []
        return x

    def mixed(self, name, at=None):
        """For each token a sum of its values, by learned weights or a softmax, a head at a time."""
        size = self.row.width // self.residual.heads
        out = []
        for vectors in zip(*self.values, *self.partial, strict=True):
            parts = []
            for i in range(0, self.row.width, size):
                shares = self.shares(vectors, name, i, size, at or name.removesuffix(".mix"))
                parts.append(sum(a * vector[i : i + size] for a, vector in zip(shares, vectors, strict=True)))
            out.append(torch.cat(parts))
        return out

    def shares(self, vectors, name, i, size, at):
        """The weight of each value of a token in the head that begins at element i."""
        weight = self.row.w[name]
        if self.residual.mix == "static":  # by distance, the latest first
            return weight[: len(vectors), i // size].flip(0)
        if self.residual.mix == "token":
            latest = vectors[-1] / torch.sqrt((vectors[-1] * vectors[-1]).mean() + 1e-6)
            hidden = activated("gelu", self.row.w[f"{at}.mix_up"] @ latest)
            dynamic = (self.row.w[f"{name}_down"] @ hidden).view(weight.shape)
            return (weight + dynamic)[: len(vectors), i // size].flip(0)
        query = self.row.w[f"{name}_query"] if self.residual.mix == "relu_query" else weight
        normed = [v / torch.sqrt((v * v).mean() + 1e-6) * query for v in vectors]
        scores = torch.stack([vector[i : i + size].sum() for vector in normed])
        if self.residual.mix == "relu_query":
            shares = self.row.w[name][: len(vectors), i : i + size].flip(0)
            return [b + score.clamp(min=0) for b, score in zip(shares, scores, strict=True)]
        return scores.softmax(0)


def activated(kind, x):
    match kind:
        case "swiglu":
            return x / (1 + torch.exp(-x))
        case "gelu" | "geglu":
            return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
        case "gelu_tanh":
            return x * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        case "relu":
            return x * (x > 0)
        case "relu2":
            return x * x * (x > 0)
