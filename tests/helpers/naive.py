"""The model written from its equations, as plainly as possible: loops over rows, steps, tokens and heads.

Nothing here is shared with the code under test but the names of weights in a state_dict. Vectors are 1-D;
the past is kept in Python lists that grow.
"""

import math

import naive_attention
import naive_mix
import naive_state
import naive_streams
import torch
from naive_attention import rotated, softmax_mix


def logits(spec, weights, tokens, step=None):
    """Return logits [batch, sequence, vocab]; `weights` maps the names of a state_dict to tensors.

    They are those of evaluation, or of training at an optimizer step.
    """
    drawn = (None if step is None else (step, n) for n in range(len(tokens)))
    return torch.stack(
        [_Row(spec, weights, of).logits(row.tolist()) for of, row in zip(drawn, tokens, strict=True)]
    )


def rms_norm(x, gain):
    return x / torch.sqrt((x * x).mean() + 1e-6) * gain


START = object()
"""Under this key a depth memory holds the path, the input of its scope, and whether that has gradients."""


class _Step:
    """One run of a step: the loops around it as (number, trips, tied), and the depth memory of its scope.

    `path` is where its weights are, `loop` what random numbers know its stage by.
    """

    def __init__(self, loops, memory, wider, path, loop):
        self.loops, self.memory, self.wider = loops, memory, {"recur": memory, **wider}
        self.path, self.loop = path, loop
        self.published = {}  # keys, values and how queries are turned, by the name of a sequence attention

    def index(self):
        """The number of this step within the innermost recur around it, else within its own stage."""
        scope = max((n for n, loop in enumerate(self.loops) if loop[2]), default=len(self.loops) - 1)
        index = 0
        for number, trips, _ in self.loops[scope:]:
            index = index * trips + number
        return index


class _Row:
    """One row of a batch; a state is a list with one vector for each token."""

    def __init__(self, spec, weights, drawn=None):
        self.spec, self.w, self.width, self.drawn = spec, weights, spec.model.width, drawn
        self.routed = {}  # for each place and step of experts, (logits, experts chosen) of each token
        self.own = (None, 0)  # `per_step` of the stage around, and the number of the step
        self.modulated, self.views = None, {}
        self.whole = {}
        self.ponder = []  # for each pass through a stage that halts, the ponder cost of each token
        self.places = None  # of the tokens that a step runs on, where these are not all
        self.trains, self.route_loss = False, 0
        self.numbers = None  # of steps that tokens chose, from 0, where they do
        self.first_kv = {}  # keys and values of the first step by block, where all steps share them

    def logits(self, ids):
        table = self.w["embedding"]
        self.began = naive_state.began(self.spec.model, ids)
        head = table if self.spec.model.tie_embeddings else self.w["head"]
        scale = self.spec.model.embedding_scale
        x = [table[i] * (math.sqrt(self.width) if scale == "sqrt_width" else scale) for i in ids]
        if self.spec.model.positions == "learned":
            x = [vector + self.w["positions"][t - self.began[t]] for t, vector in enumerate(x)]
        x = naive_state.dropped(self, x, "dropout", [])
        spanning = self.spec.model.residual if self.spec.model.residual.name == "streams" else None
        spanning = spanning if spanning and spanning.per == "sublayer" else None
        if spanning:
            x = naive_streams.opened(x, spanning)
        for number, stage in enumerate(self.spec.stages):
            x = self.stage(stage, f"stages.{number}", x, [], None, f"stages.{number}")
            self.own = (None, 0)
        x = naive_streams.closed(x) if spanning else x
        return torch.stack([head @ self.norm(vector, "norm") for vector in x])

    def norm(self, x, name):
        """The norm of the model's kind whose gain has a name."""
        if self.spec.model.norm_type == "rms":
            return rms_norm(x, self.gain(name))
        centred = x - x.mean()
        normed = centred / torch.sqrt((centred * centred).mean() + 1e-5) * self.gain(name)
        return normed + self.gain(f"{name}_bias") if self.spec.model.bias else normed

    def gain(self, name):
        """The gain or bias of a norm at this step."""
        own, n = self.own
        return self.w[name][n] if getattr(own, "norm", False) else self.w[name]

    def project(self, x, name):
        """The matrix of a name times x, plus a bias if the model has biases."""
        y = self.w[name] @ x
        own, n = self.own
        if rank := getattr(own, "lora", None):
            a = self.w[f"{name}_lora_a"].view(-1, rank, len(x))[n]
            y = y + self.w[f"{name}_lora_b"].view(-1, len(y), rank)[n] @ (a @ x)
        return y + self.w[f"{name}_bias"] if self.spec.model.bias else y

    def stage(self, stage, path, x, loops, memory, place):
        """`place` is the path as random numbers know it, without numbers of steps and layers."""
        trips, tied = stage.trips, stage.tied
        start = x if x[0].ndim == 1 else naive_streams.closed(x)
        if not loops:
            self.wider = {"model": self.whole, "stage": {START: (path, start, torch.is_grad_enabled())}}
            self.whole.setdefault(START, ("", start, True))
        x = naive_state.start(self, stage, path, x, loops, place)
        residual = self.option("residual", stage)
        mix = naive_mix.Mix(self, residual, start, len(stage.step)) if residual.name == "mix" else None
        in_recur = any(loop[2] for loop in loops)
        if tied or not in_recur:  # else the memory of the innermost recur around it goes on
            memory = {START: (path, start, torch.is_grad_enabled())}
        streams = residual if residual.name == "streams" else None
        opens = streams and x[0].ndim == 1
        if opens:
            x = naive_streams.opened(x, streams)
        halting = naive_state.Halting(x, stage.halt.threshold) if stage.halt.name == "act" else None
        with_gradients = torch.is_grad_enabled()
        for n in range(trips):
            torch.set_grad_enabled(with_gradients and n >= trips - getattr(stage.backprop, "last", trips))
            at = f"{path}.step" if tied else f"{path}.layers.{n}"
            around = (
                naive_streams.Connection(streams, self.w, at) if streams and streams.per == "step" else None
            )
            h, x = x, [around.input(h) for h in x] if around else x
            loop = place.replace("stages.", "n").replace(".", "_")
            step = _Step([*loops, (n, trips, tied)], memory, self.wider, at, loop)
            routes, everyone = stage.route.name == "by", x
            self.shares_first = routes and stage.route.kv == "first"
            if routes:
                self.places, gates = naive_state.routed(self, stage, at, n, x)
                x = [x[t] for t in self.places]
            x = naive_state.injected(self, stage, path, at, x, start, n)
            x = [vector + naive_state.code(self, stage, at, n) for vector in x]
            shares = halting and halting.decide(x, self.w[f"{at}.halt"], self.w[f"{at}.halt_bias"])
            for number, entry in enumerate(stage.step):
                at_steps = getattr(entry, "at", None) or ":"
                if n not in eval(f"range({trips})[{at_steps}]"):
                    continue
                self.own, self.modulated = (stage.per_step, n), naive_state.modulation(self, stage, at, n)
                if hasattr(entry, "step"):
                    x = self.stage(entry, f"{at}.{number}", x, step.loops, memory, f"{loop}.{number}")
                elif mix:
                    x, read, self.views = mix.read(x, f"{at}.{number}", number, entry)
                    norm = self.option("norm", entry, stage).name
                    x = mix.add(x, self.update(norm, entry, f"{at}.{number}", read, step), number)
                    self.views = {}
                else:
                    x = self.sublayer(stage, entry, f"{at}.{number}", x, step)
            x = [around.output(*each) for each in zip(h, x, strict=True)] if around else x
            if routes:
                x = naive_state.put_back(self, everyone, gates, x)
                self.places = None
            if halting:
                halting.update(shares, x)
        if halting:
            self.ponder.append(halting.ponder())
            return halting.state
        if opens:
            return naive_streams.closed(x)
        return mix.mixed(f"{path}.mix") if mix else x

    def sublayer(self, stage, entry, at, x, step):
        norm, residual = (self.option(key, entry, stage) for key in ("norm", "residual"))
        norm = norm.name
        if residual.name == "streams" and residual.per == "sublayer":
            around = naive_streams.Connection(residual, self.w, at)
            y = self.update(norm, entry, at, [around.input(h) for h in x], step)
            return [around.output(*each) for each in zip(x, y, strict=True)]
        y = self.update(norm, entry, at, x, step)
        x = [a + self.factor(stage, residual, at, a) * b for a, b in zip(x, y, strict=True)]
        return self.normed(x, f"{at}.norm") if norm == "post" else x

    def update(self, norm, entry, at, x, step):
        self.score_norm, self.normed_once = f"{at}.norm" if norm == "scores" else None, []
        before = norm in ("pre", "sandwich")
        if before:
            self.views = {each: self.normed(v, f"{at}.norm_{each}") for each, v in self.views.items()}
        read = naive_state.scaled(self, self.normed(x, f"{at}.norm") if before else x, at, "norm")
        y = naive_state.scaled(self, self.entry(entry, at, read, step), at, "update")
        if norm == "sandwich":
            y = self.normed(y, f"{at}.out_norm")
        own, n = self.own
        return [self.w[f"{at}.step_scale"][n] * each for each in y] if getattr(own, "scale", False) else y

    def factor(self, stage, residual, at, vector):
        """What the update of a token is multiplied by; `vector` is the stream that the sublayer reads."""
        match residual.name, getattr(residual, residual.name, None):
            case "scale", "1/steps":
                return 1 / stage.trips
            case "scale", "learned":
                return self.w[f"{at}.residual_scale"]
            case "scale", number:
                return number
            case "gate", "token":
                logit = self.project(vector, f"{at}.residual_token_gate")
                return self.w[f"{at}.residual_gate"] / (1 + torch.exp(-logit))
            case "gate", _:
                return self.w[f"{at}.residual_gate"]
            case _:
                return 1.0

    def scored(self, x):
        """What queries, keys and routers read where a block reads x, a list of tokens."""
        if self.score_norm is None:
            return x
        before = [number for number, each in enumerate(self.normed_once) if each is x]
        number, *_ = *before, len(self.normed_once)
        self.normed_once += [] if before else [x]
        return self.normed(x, f"{self.score_norm}_{number}" if number else self.score_norm)

    def option(self, key, *levels):
        """Return the option of the innermost level that has one."""
        given = (getattr(level, key, None) for level in (*levels, self.spec.model))
        return next(option for option in given if option is not None)

    def normed(self, x, gain):
        return [self.norm(vector, gain) for vector in x]

    def entry(self, entry, at, normed, step):
        if not hasattr(entry, "parallel"):
            name = getattr(entry, "use", entry)
            y = self.block(name, f"{at}.{name}", normed, step)
        else:
            branches = [
                self.block(name, f"{at}.{n}.{name}", normed, step) for n, name in enumerate(entry.parallel)
            ]
            y = []
            for t, vector in enumerate(normed):
                outs = [branch[t] for branch in branches]
                if entry.combine.name == "gate":
                    shares = self.project(vector, f"{at}.gate").softmax(0)
                    y.append(sum(share * out for share, out in zip(shares, outs, strict=True)))
                else:
                    y.append(sum(outs) / (len(outs) if entry.combine.name == "mean" else 1))
        return y

    def block(self, name, at, x, step):
        config = self.spec.blocks[name]
        y = getattr(self, config.type)(config, name, at, x, step)
        place = f"{step.loop}{at.removeprefix(step.path)}.dropout"
        return naive_state.dropped(self, y, place, step.loops)

    def heads(self, config, at, role, x):
        """Project and cut into heads; also the number of query heads that share one."""
        vector = self.project(x, f"{at}.{role}")
        size = config.head_dim or self.width // config.heads
        return [vector[i : i + size] for i in range(0, len(vector), size)]

    def sequence_attention(self, config, name, at, x, step):
        def made(role, t, vector):
            heads = self.heads(config, at, role, vector)
            if config.qk_norm:
                heads = [self.norm(head, f"{at}.{role}_norm") for head in heads]
            return turned(heads, t)

        def turned(heads, t):
            if not config.rope:
                return heads
            t = t if self.places is None else self.places[t]
            part = int(len(heads[0]) * config.rope_fraction) // 2 * 2
            base, scaling = config.rope_base, config.rope_scaling
            if scaling and scaling.ntk:
                base *= scaling.ntk ** (part / (part - 2))
            if scaling and scaling.linear:
                t = t / scaling.linear
            yarn = scaling and scaling.yarn
            return [torch.cat([rotated(head[:part], t, base, yarn), head[part:]]) for head in heads]

        q = [made("query", t, vector) for t, vector in enumerate(self.scored(self.views.get("q", x)))]
        k = [made("key", t, vector) for t, vector in enumerate(self.scored(self.views.get("k", x)))]
        v = [self.heads(config, at, "value", vector) for vector in self.views.get("v", x)]
        shares = self.shares_first and self.places is not None
        if shares:
            k, v = self.first_kv.setdefault((name, at), (k, v))
        step.published[name] = k, v, turned
        past = step.memory.setdefault(name, [])
        earlier = [each for each in past if config.depth == "joint" and each[0] is not step]
        past.append((step, k, v))
        shared = config.heads // (config.kv_heads or config.heads)
        out = []
        for t in range(len(x)):
            first = max(self.began[t], t + 1 - (config.window or len(x)))
            last = self.places[t] if shares else t
            seen = [s for s in range(last + 1) if s >= first or s < config.sinks]
            mixed = []
            for h in range(config.heads):
                keys = [k[s][h // shared] for s in seen]
                values = [v[s][h // shared] for s in seen]
                if config.steps == "all":
                    keys = [each[s][h // shared] for _, each, _ in past for s in seen]
                    values = [each[s][h // shared] for _, _, each in past for s in seen]
                keys += [their_k[t][h // shared] for _, their_k, _ in earlier]
                values += [their_v[t][h // shared] for _, _, their_v in earlier]
                mixed.append(softmax_mix(q[t][h], keys, values, cap=config.soft_cap))
            out.append(self.project(torch.cat(mixed), f"{at}.out"))
        return out

    def depth_attention(self, config, name, at, x, step):
        memory = step.wider[config.depth_scope]
        past = memory.setdefault(name, [])  # (the step it was in, its index, keys, values per token)
        if config.input and not past:
            path, start, with_gradients = memory[START]
            path = f"{path}.depth_input.{name}".removeprefix(".")
            own, self.own = self.own, (None, 0)  # the same weights before all steps
            with torch.set_grad_enabled(with_gradients):
                start = self.normed(start, f"{path}.norm")
                keys, values = (
                    [self.heads(config, path, role, vector) for vector in start] for role in ("key", "value")
                )
            past.append((START, 0, keys, values))
            self.own = own
        same = bool(past) and past[-1][0] is step
        index = 0 if not past else past[-1][1] + (0 if same else 1)

        def made(role, vector):
            heads = self.heads(config, at, role, vector)
            return [rotated(head, index) for head in heads] if config.rotary else heads

        scored = self.scored(self.views.get("q", x))
        if config.kv_from:
            keys, values, turned = step.published[config.kv_from]
        else:
            keys = [made("key", vector) for vector in self.scored(self.views.get("k", x))]
            values = [self.heads(config, at, "value", vector) for vector in self.views.get("v", x)]
        past.append((step, index, keys, values))
        seen = [each for each in past if config.span == "inclusive" or each[1] < index]
        seen = seen[::-1][: config.window][:: config.stride]
        shared = config.heads // (config.kv_heads or config.heads)
        out = []
        for t, vector in enumerate(scored):
            if not seen:
                zeros = vector.new_zeros(self.w[f"{at}.out"].shape[1])
                out.append(self.project(zeros, f"{at}.out") + 0 * vector.sum())
                continue
            mixed = []
            queries = made("query", vector)
            for h, query in enumerate(turned(queries, t) if config.kv_from else queries):
                theirs = [each[2][t][h // shared] for each in seen]
                lower = []
                if config.bias == "distance":
                    slope = self.w[f"{at}.distance_bias"][h]
                    lower = [slope * n * config.stride for n in range(len(seen))]
                mixed.append(softmax_mix(query, theirs, [each[3][t][h // shared] for each in seen], lower))
            out.append(self.project(torch.cat(mixed), f"{at}.out"))
        return out

    expert_attention = naive_attention.expert_attention
    latent_attention = naive_attention.latent_attention
    gated_delta = naive_attention.gated_delta
    product_key_experts = naive_attention.product_key_experts

    def feed_forward(self, config, name, at, x, step):
        out = []
        if f"{at}.key" in self.w:
            theirs, turned = self.spec.blocks[config.kv_for], step.published[config.kv_for][2]
            sized = theirs.model_copy(update={"head_dim": theirs.head_dim or self.width // theirs.heads})
            keys = [
                turned(self.heads(sized, at, "key", vector), t) for t, vector in enumerate(self.scored(x))
            ]
            values = [self.heads(sized, at, "value", vector) for vector in x]
            step.memory[config.kv_for].append((step, keys, values))
        for vector in x:
            up = self.project(vector, f"{at}.up")
            gated = config.activation in ("swiglu", "geglu")
            gate = self.project(vector, f"{at}.gate") if gated else up
            hidden = naive_mix.activated(config.activation, gate) * (up if gated else 1)
            out.append(self.project(hidden, f"{at}.down"))
        return out
