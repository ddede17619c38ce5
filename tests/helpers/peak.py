"""The peak of a training step as it is measured: by counting live storages, by the allocator, on a GPU."""

from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from composer import load
from composer.testing.memory import step, trainable

ROOT = Path(__file__).parents[2]
WIDER = {
    "dreamer-small, 4 x 4 steps": ["stages=[{recur: 4, step: [{stack: 4, step: [seq, depth, expert]}]}]"],
    "dreamer-small, half the experts": ["blocks.expert.experts=192"],
    "nested, 16 steps": ["stages.0.recur=16"],
    "transformer, wide": ["model.width=512", "blocks.mlp.hidden=1376", "model.context=512"],
}


def varied():
    """Map names to specs, shipped and varied, each with a batch at which a GPU's fixed costs are small."""
    files = {file.stem: file for file in sorted((ROOT / "specs").glob("*.yaml"))}
    changes = {name: [] for name, file in files.items() if "\nsearch:" not in file.read_text()} | WIDER
    specs = {name: load(files[name.partition(",")[0]], each) for name, each in changes.items()}
    return {name: (spec, max(8, 2**16 // spec.model.context)) for name, spec in specs.items()}


@contextmanager
def _unpacked(dtype):
    """Run narrow products without oneDNN, whose packing buffers depend on the instruction set there."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = before and dtype == torch.float32
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def allocated(spec, batch, dtype=torch.bfloat16):
    """Return the same from what the allocator of a CPU was asked for while the step really ran."""
    from torch.profiler import ProfilerActivity, profile

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), _unpacked(dtype):
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
