"""The peak of a training step as it is measured: by counting live storages, by the allocator, on a GPU."""

from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from weakref import finalize

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from composer import load
from composer.module.model import ComposedModel

ROOT = Path(__file__).parents[1]
WIDER = {
    "dreamer-small, 4 x 4 steps": ["stages=[{recur: 4, step: [{stack: 4, step: [seq, depth, expert]}]}]"],
    "dreamer-small, half the experts": ["blocks.expert.experts=32"],
    "nested, 16 steps": ["stages.0.recur=16"],
    "transformer, wide": ["model.width=512", "blocks.mlp.hidden=1376", "model.context=512"],
}


def varied():
    """Map names to specs, shipped and varied, each with a batch at which a GPU's fixed costs are small."""
    files = {file.stem: file for file in sorted((ROOT / "specs").glob("*.yaml"))}
    changes = {name: [] for name, file in files.items() if "\nsearch:" not in file.read_text()} | WIDER
    specs = {name: load(files[name.partition(",")[0]], each) for name, each in changes.items()}
    return {name: (spec, max(8, 2**16 // spec.model.context)) for name, spec in specs.items()}


class Alive(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, and the most of them since `peak` was set."""

    def __init__(self):
        super().__init__()
        self.sizes, self.now, self.peak = {}, 0, 0
        self.exclusive = ()  # what tells a gradient that autograd alone holds

    def count(self, *tensors):
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                finalize(storage, self._gone, storage._cdata)
        self.peak = max(self.peak, self.now)

    def _gone(self, key):
        self.now -= self.sizes.pop(key)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten.bincount.default:
            # its length depends on the data, but for the minimum that is asked for
            results = torch.zeros(args[2], dtype=torch.int64)
        elif function is torch.ops.aten.add.Tensor and self._adds_up(*args):
            results = args[0].add_(args[1])
        else:
            results = function(*args, **kwargs)
        self.count(*(each for each in tree_leaves(results) if isinstance(each, torch.Tensor)))
        return results

    def _adds_up(self, old, new):
        """Whether autograd would add a gradient to another in place, which it never does under a mode."""
        # with gradients on, an operation is running again
        if (
            torch._C._current_graph_task_id() < 0
            or torch.is_grad_enabled()
            or not isinstance(new, torch.Tensor)
        ):
            return False
        holders = (old._use_count(), torch._C._storage_Use_Count(old.untyped_storage()._cdata))
        if not self.exclusive:
            self.exclusive = holders
        return holders == self.exclusive and old.shape == new.shape

    def __enter__(self):
        super().__enter__()
        # the first two gradients that are added up here are nobody else's
        x = torch.ones(1, requires_grad=True)
        (x.exp() + x.sin()).backward()
        return self


def trainable(spec, dtype=torch.bfloat16, device="cpu", recompute=()):
    """Return the model in a dtype as a whole, and its optimizer."""
    model = ComposedModel(spec, recompute=recompute, torch_compile="off")
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    trained = isinstance(tensor, torch.nn.Parameter)
                    data = tensor.detach().to(device, dtype if tensor.is_floating_point() else None)
                    held[name] = torch.nn.Parameter(data) if trained else data
    return model, torch.optim.AdamW(model.parameters(), fused=True)


def step(model, optimizer, tokens, targets, autocast=False):
    """Take one optimizer step, as a Trainer does."""
    with torch.autocast(tokens.device.type, torch.bfloat16) if autocast else nullcontext():
        loss = model.loss(tokens, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def make_moments(model, optimizer):
    """Give the optimizer the states that it has after a step."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def measured(spec, batch, dtype=torch.bfloat16, recompute=(), autocast=False):
    """Return the most bytes alive at once in the second step, under fake tensors on a CPU."""
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        stack.enter_context(sdpa_kernel(SDPBackend.FLASH_ATTENTION))
        model, optimizer = trainable(spec, dtype, recompute=recompute)
        tokens = torch.zeros(batch, spec.model.context, dtype=torch.int64)
        targets = tokens.clone()
        alive = stack.enter_context(Alive())
        alive.count(*model.parameters(), *model.buffers(), tokens, targets)
        make_moments(model, optimizer)
        alive.peak = 0
        step(model, optimizer, tokens, targets, autocast)
    return alive.peak


@contextmanager
def _without_onednn():
    """Run products without oneDNN, whose packing buffers depend on the processor's instruction set."""
    before, torch.backends.mkldnn.enabled = torch.backends.mkldnn.enabled, False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def allocated(spec, batch, dtype=torch.bfloat16):
    """Return the same from what the allocator of a CPU was asked for while the step really ran."""
    from torch.profiler import ProfilerActivity, profile

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), _without_onednn():
        model, optimizer = trainable(spec, dtype)
        tokens = torch.randint(spec.model.vocab, (batch, spec.model.context))
        targets = tokens.clone()
        step(model, optimizer, tokens, targets)
        states = [part for state in optimizer.state.values() for part in state.values()]
        now = peak = sum(
            each.nbytes for each in (*model.parameters(), *model.buffers(), *states, tokens, targets)
        )
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
            step(model, optimizer, tokens, targets)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def _open_libraries():
    """Let libraries take the workspaces that they keep, in both threads that a step runs in."""
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.ones(16, 16, dtype=dtype, device="cuda", requires_grad=True)
        # a kernel first: cuBLAS wants a context in the thread of the backward pass
        (x @ x).exp().sum().backward()


def on_cuda(spec, batch, dtype=torch.bfloat16, recompute=()):
    """Return `torch.cuda.max_memory_allocated` of the second step."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        _open_libraries()
        before = torch.cuda.memory_allocated()
        model, optimizer = trainable(spec, dtype, "cuda", recompute)
        tokens = torch.randint(spec.model.vocab, (batch, spec.model.context), device="cuda")
        targets = tokens.clone()
        step(model, optimizer, tokens, targets)
        torch.cuda.reset_peak_memory_stats()
        step(model, optimizer, tokens, targets)
    return torch.cuda.max_memory_allocated() - before
