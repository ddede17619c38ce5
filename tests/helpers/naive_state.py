"""The state of a stage in `naive`: how it starts, how the input enters again, what a step knows."""

import hashlib
import math

import torch
import torch.nn.functional as F


def digest(text):
    """64 bits of a hash of a text, as a number below 2**64."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def bits(key, count):
    """The first signed 32-bit numbers that are drawn from a key."""
    low, high = key % 2**32, key >> 32
    results = []
    for n in range(count):
        x = n * 0x9E3779B9 % 2**32 ^ low
        for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
            x = ((x ^ x >> shift) * factor + high) % 2**32
        x ^= x >> 15
        results.append(x - 2**32 if x >= 2**31 else x)
    return results


def uniform(seed, purpose, count):
    """The first numbers between 0 and 1 that are drawn for a purpose in evaluation."""
    drawn = bits(digest(f"{seed}:evaluation") ^ digest(purpose), count)
    return [((each >> 9) + 0.5) / 2**23 + 0.5 for each in drawn]


def number(loops):
    """The number of a step among those of all loops around it."""
    return sum(number << (20 * n) for n, (number, _, _) in enumerate(reversed(loops)))


def dropped(row, x, place, loops):
    """Tokens without the elements that training drops; `row.drawn` says of which step and row, if any."""
    if not row.spec.model.dropout or row.drawn is None:
        return x
    seed = row.spec.train.seed if row.spec.train else 0
    key = digest(":".join(map(str, (seed, *row.drawn)))) ^ digest(f"{place}:{number(loops)}")
    rate = row.spec.model.dropout
    stays = [(each + 2**31) / 2**32 >= rate for each in bits(key, len(x) * row.width)]
    return [
        vector * torch.tensor(stays[t * row.width : (t + 1) * row.width]) / (1 - rate)
        for t, vector in enumerate(x)
    ]


def start(row, stage, path, x, loops, place):
    """The state that the first step reads."""
    match stage.start.name:
        case "zeros":
            return [torch.zeros_like(vector) for vector in x]
        case "learned":
            return [row.w[f"{path}.start"]] * len(x)
        case "noise":
            seed = row.spec.train.seed if row.spec.train else 0
            drawn = uniform(seed, f"{place}.start:{number(loops)}", len(x) * row.width)
            share = (2 * torch.tensor(drawn, dtype=torch.float64) - 1) * math.erf(3 / math.sqrt(2))
            noise = stage.start.noise * math.sqrt(2) * torch.erfinv(share)
            return [*noise.view(len(x), row.width)]
        case _:
            return x


def injected(row, stage, path, at, x, start, n):
    """The state with the stage's input in it."""
    match stage.inject.name:
        case "add" if n > 0 or stage.start.name != "input":
            return [a + b for a, b in zip(x, start, strict=True)]
        case "concat":
            return [row.w[f"{at}.inject"] @ torch.cat([a, b]) for a, b in zip(x, start, strict=True)]
        case "diagonal":
            delta = torch.log(1 + torch.exp(row.w[f"{at}.inject_delta"]))
            factor = torch.exp(-delta * torch.exp(row.w[f"{at}.inject_decay"]))
            own, row.own = row.own, (None, 0)  # the same weights before all steps
            normed = [row.norm(vector, f"{path}.inject_norm") for vector in start]
            row.own = own
            entry = [row.w[f"{path}.inject_input"] @ vector for vector in normed]
            return [factor * a + delta * b for a, b in zip(x, entry, strict=True)]
        case _:
            return x


def code(row, stage, at, n):
    """What a step code adds to the state of each token before step n."""
    if stage.step_code.name == "embedding":
        return row.w[f"{at}.step_code"][n]
    if stage.step_code.name == "sinusoidal":
        angles = [(n + 1) / 10000 ** (i // 2 * 2 / row.width) for i in range(row.width)]
        waves = [math.cos(angle) if i % 2 else math.sin(angle) for i, angle in enumerate(angles)]
        return torch.tensor(waves, dtype=torch.float64)
    return torch.zeros(row.width)


def modulation(row, stage, at, n):
    """The code of step n that sublayers are modulated by, activated; None without modulation."""
    if stage.step_code.name != "modulation":
        return None
    code, size = 0, stage.step_code.modulation
    half = size // 2
    for name, value in (("t", n / stage.trips), ("dt", 1 / stage.trips)):
        angles = [value * 10000 ** (-i / half) for i in range(half)]
        waves = [*map(math.cos, angles), *map(math.sin, angles), *[0.0] * (size % 2)]
        coded = torch.tensor(waves, dtype=torch.float64)
        role = f"{at}.step_code_{name}"
        inner = row.w[f"{role}_in"] @ coded + row.w[f"{role}_in_bias"]
        code = code + row.w[f"{role}_out"] @ F.silu(inner) + row.w[f"{role}_out_bias"]
    return F.silu(code)


def scaled(row, x, at, what):
    """Tokens times what modulation makes of the step's code."""
    if row.modulated is None:
        return x
    scale = row.w[f"{at}.{what}_modulation"] @ row.modulated + row.w[f"{at}.{what}_modulation_bias"]
    return [scale * vector for vector in x]


class Halting:
    """Adaptive computation time of one stage, token by token, from the listing of arXiv 1807.03819."""

    def __init__(self, x, threshold):
        self.threshold = threshold
        self.halted = [x[0].new_zeros(()) for _ in x]  # the sum of probabilities
        self.remainders = [x[0].new_zeros(()) for _ in x]
        self.updates = [0 for _ in x]
        self.state = [torch.zeros_like(vector) for vector in x]

    def decide(self, x, weight, bias):
        """Look at the states before a step; return how much each token is updated after it."""
        shares = []
        for t, vector in enumerate(x):
            p = 1 / (1 + torch.exp(-(weight[0] @ vector + bias[0])))
            if self.halted[t] >= 1:
                shares.append(0)
            elif self.halted[t] + p > self.threshold:
                self.remainders[t] = 1 - self.halted[t]
                self.halted[t] = torch.ones_like(p)
                self.updates[t] += 1
                shares.append(self.remainders[t])
            else:
                self.halted[t] = self.halted[t] + p
                self.updates[t] += 1
                shares.append(p)
        return shares

    def update(self, shares, x):
        """Mix the states after the step into those that the stage returns."""
        mixed = zip(shares, x, self.state, strict=True)
        self.state = [share * new + (1 - share) * old for share, new, old in mixed]

    def ponder(self):
        """The ponder cost of each token."""
        return [n + rest for n, rest in zip(self.updates, self.remainders, strict=True)]


def routed(row, stage, at, n, x):
    """Return the numbers of the tokens that run step n, and the gate of each.

    In training (`row.trains`) they are the ones with the highest logits among those that ran the step before.
    The loss of the router, a mean over these, is added to `row.route_loss`.
    """
    route = stage.route
    if route.by == "token":
        return numbered(row, stage, at, n, x)
    before = row.running if n else list(range(len(x)))
    logits = [row.w[f"{at}.router"][n] @ vector for vector in x]
    keep = route.keep or [(stage.trips - step) / stage.trips for step in range(stage.trips)]
    here, earlier = (1.0 if k < 0 else keep[min(k, len(keep) - 1)] for k in (n, n - 1))
    if row.trains:
        count = math.ceil(here * len(x) - 1e-6)
        runs = sorted(sorted(before, key=lambda t: -logits[t])[:count])
        for t in before:
            right = logits[t] if t in runs else -logits[t]
            row.route_loss = row.route_loss + torch.log(1 + torch.exp(-right)) / len(before)
    else:
        runs = before if here == earlier else [t for t in before if logits[t] > 0]
    row.running = runs
    return runs, [route.scale / (1 + torch.exp(-logits[t])) for t in runs]


def numbered(row, stage, at, n, x):
    """Do the same where each token chooses its number of steps before the first; `route_loss` balances these.

    The gates are those of tokens that end; of others they are None.
    """
    steps, tokens = stage.trips, range(len(x))
    if n == 0:
        router = row.w[f"{at.removesuffix('.step')}.router"]
        chances = [torch.stack([router[i] @ vector for i in range(steps)]).softmax(0) for vector in x]
        row.numbers = [max(range(steps), key=lambda i, t=t: chances[t][i]) for t in tokens]
        row.gates = [stage.route.scale * chances[t][row.numbers[t]] for t in tokens]
        row.chances, row.first_states = chances, x
    runs = [t for t in tokens if row.numbers[t] >= n]
    return runs, [row.gates[t] if row.numbers[t] == n else None for t in runs]


def put_back(row, everyone, gates, x):
    """Return the states of all tokens after a routed step that returned x for those at `row.places`."""
    after = [*everyone]
    for t, gate, y in zip(row.places, gates, x, strict=True):
        if gate is None:
            after[t] = y
        else:
            after[t] = gate * y + (everyone[t] if row.numbers is None else row.first_states[t])
    return after


def began(model, ids):
    """Where the document of each token begins."""
    first = getattr(model.documents, "apart", None)
    return [max([0, *(s for s in range(t + 1) if ids[s] == first)]) for t in range(len(ids))]
