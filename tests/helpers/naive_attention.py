"""What attention is made of, as plainly as possible; vectors are 1-D."""

import math

import torch
import torch.nn.functional as F


def rotated(x, position, base=10000.0, yarn=None):
    """Turn the pair (2i, 2i + 1) by position * base ** (-2i / size), some of them less under YaRN."""
    out, length = [], max(1, 0.1 * math.log(yarn.factor) + 1) if yarn else 1
    for i in range(0, len(x), 2):
        angle = position * base ** (-i / len(x))
        if yarn:
            slow = slowed(i // 2, len(x), base, yarn)
            angle *= (1 - slow) + slow / yarn.factor
        c, s = length * math.cos(angle), length * math.sin(angle)
        out += [x[i] * c - x[i + 1] * s, x[i] * s + x[i + 1] * c]
    return torch.stack(out)


def slowed(pair, size, base, yarn):
    """The share of a pair's frequency that YaRN divides, by how often it turns in the training's context."""

    def turning(turns):  # the pair that turns so often, as a number with a fraction
        return size / 2 * math.log(yarn.context / (2 * math.pi * turns), base)

    first = max(0, math.floor(turning(yarn.beta_fast)))
    last = min(size - 1, math.ceil(turning(yarn.beta_slow)))
    return min(max((pair - first) / max(last - first, 0.001), 0), 1)


def softmax_mix(query, keys, values, lower=(), cap=None):
    """softmax(q k / sqrt(d) - lower) v over lists of keys and values; scores may be capped."""
    scores = torch.stack([query @ key for key in keys]) / math.sqrt(len(query))
    if cap:
        scores = cap * torch.tanh(scores / cap)
    if lower:
        scores = scores - torch.stack(lower)
    return sum(share * value for share, value in zip(scores.softmax(0), values, strict=True))


def expert_attention(row, config, name, at, x, step):
    out = []
    for vector, query in zip(x, row.scored(x), strict=True):
        if config.depth_code == "rotary":
            query = rotated(query, step.index())
        elif config.depth_code == "bias":
            query = query + row.w[f"{at}.query_bias"][step.index()]
        scores = row.w[f"{at}.keys"] @ query / math.sqrt(row.width)
        given = scores.softmax(0) if config.scores == "softmax" else scores.sigmoid()
        if config.routing == "expert_choice":
            ranked = (given >= row.w[f"{at}.threshold"]).nonzero().flatten().tolist()
        else:
            ranked = (scores + row.w[f"{at}.balance"]).argsort(descending=True)[: config.active].tolist()
        row.routed.setdefault((at, step.index()), []).append((scores, ranked))
        total = sum(given[e] for e in ranked) if config.renormalize else 1
        y = 0 * vector
        for e in ranked:
            hidden = unit(row, config, vector, f"{at}.{up_of(config)}", e)
            y = y + given[e] / total * (hidden @ row.w[f"{at}.down"][e])
        if config.shared:
            y = y + row.project(shared_unit(row, config, vector, at), f"{at}.shared_down")
        out.append(y)
    return out


def up_of(config):
    return "gate_up" if config.activation == "swiglu" else "up"


def unit(row, config, vector, up, e):
    both = vector @ row.w[up][e]
    if config.activation == "relu":
        return both.clamp(min=0)
    return F.silu(both[: config.hidden]) * both[config.hidden :]


def shared_unit(row, config, vector, at):
    up = row.project(vector, f"{at}.shared_up")
    if config.activation == "relu":
        return up.clamp(min=0)
    return F.silu(row.project(vector, f"{at}.shared_gate")) * up


def latent_attention(row, config, name, at, x, step):
    size = config.head_dim or row.width // config.heads
    turned = config.rope_dim or size // 2
    scored = row.scored(x)
    places = range(len(x)) if row.places is None else row.places
    shared = [
        rotated(row.project(vector, f"{at}.rope_key"), place, config.rope_base)
        for place, vector in zip(places, scored, strict=True)
    ]
    small = [row.norm(row.project(vector, f"{at}.latent"), f"{at}.latent_norm") for vector in x]
    out = []
    for t, vector in enumerate(scored):
        if config.query_latent:
            vector = row.norm(row.project(vector, f"{at}.query_latent"), f"{at}.query_latent_norm")
        queries = row.project(vector, f"{at}.query").split(size)
        mixed = []
        for h, query in enumerate(queries):
            query = torch.cat([rotated(query[:turned], places[t], config.rope_base), query[turned:]])
            key_rows = slice(h * (size - turned), (h + 1) * (size - turned))
            own = [row.w[f"{at}.up_key"][key_rows] @ small[s] for s in range(t + 1)]
            keys = [torch.cat([shared[s], own[s]]) for s in range(t + 1)]
            values = [row.w[f"{at}.up_value"][h * size : (h + 1) * size] @ small[s] for s in range(t + 1)]
            mixed.append(softmax_mix(query, keys, values))
        out.append(row.project(torch.cat(mixed), f"{at}.out"))
    return out


def convolved(row, vectors, name):
    weights = row.w[name]
    size = weights.shape[1]
    results = []
    for t in range(len(vectors)):
        seen = [(j, t - size + 1 + j) for j in range(size) if t - size + 1 + j >= 0]
        results.append(F.silu(sum(weights[:, j] * vectors[s] for j, s in seen)))
    return results


def gated_delta(row, config, name, at, x, step):
    keys = config.head_dim or row.width // config.heads
    values = config.value_dim or keys
    scored = row.scored(x)
    made = {}
    for role, read in (("query", scored), ("key", scored), ("value", x)):
        made[role] = [row.project(vector, f"{at}.{role}") for vector in read]
        if config.convolution:
            made[role] = convolved(row, made[role], f"{at}.{role}_convolution")
    states = [torch.zeros(values, keys, dtype=x[0].dtype) for _ in range(config.heads)]
    out = []
    for t, vector in enumerate(x):
        write, forget = (row.project(scored[t], f"{at}.{role}") for role in ("write", "forget"))
        results = []
        for h in range(config.heads):
            query, key = (made[role][t][h * keys : (h + 1) * keys] for role in ("query", "key"))
            query, key = (each / torch.sqrt(each @ each + 1e-6) for each in (query, key))
            opened = torch.log1p(torch.exp(forget[h] + row.w[f"{at}.shift"][h]))
            alpha = torch.exp(-torch.exp(row.w[f"{at}.rate"][h]) * opened)
            beta = 1 / (1 + torch.exp(-write[h]))
            # S (alpha (I - beta k k^T)) + beta v k^T, as the paper writes it
            erased = torch.eye(keys, dtype=key.dtype) - beta * torch.outer(key, key)
            value = made["value"][t][h * values : (h + 1) * values]
            states[h] = states[h] @ (alpha * erased) + beta * torch.outer(value, key)
            results.append(row.norm(states[h] @ query / math.sqrt(keys), f"{at}.mix_norm"))
        y = torch.cat(results)
        if config.gate:
            y = y * F.silu(row.project(vector, f"{at}.gate"))
        out.append(row.project(y, f"{at}.out"))
    return out


def product_key_experts(row, config, name, at, x, step):
    size, out = math.isqrt(config.experts), []
    for scored, vector in zip(row.scored(x), x, strict=True):
        y = torch.zeros_like(vector)
        for query in row.project(scored, f"{at}.query").chunk(config.heads):
            left, right = row.norm(query, f"{at}.query_norm").chunk(2)
            first, second = row.w[f"{at}.first_keys"] @ left, row.w[f"{at}.second_keys"] @ right
            scores = {(i, j): first[i] + second[j] for i in range(size) for j in range(size)}
            best = sorted(scores, key=lambda pair, scores=scores: -scores[pair].item())[: config.active]
            total = sum(torch.exp(scores[pair]) for pair in best)
            for i, j in best:
                e = i * size + j
                hidden = F.gelu(row.w[f"{at}.up"][e] @ vector)
                y = y + torch.exp(scores[i, j]) / total * hidden * row.w[f"{at}.down"][e]
        out.append(y)
    return out
