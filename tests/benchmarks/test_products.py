"""Products in fp32 by oneDNN beside torch's own: processor time, and the memory that a product takes."""

import statistics
import time

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from blocks.kernels import onednn

ROUNDS = 15
# rows, fan-in, outputs: projections of the family and of models of 0.2M to 27M parameters
SIZES = """
1536x48x144 1536x64x192 1024x64x64 1024x64x352 1024x128x384 1024x128x688 512x256x768 512x256x1408
512x704x256 256x512x1536 256x512x2752 256x1376x512 256x512x1000 2048x512x512 1000x300x700
"""


def passes(linear, x, weight, gradient, times):
    began = time.thread_time()
    for _ in range(times):
        x.grad = weight.grad = None
        linear(x, weight).backward(gradient)
    return (time.thread_time() - began) / times


def buffer(a, b):
    """Return the bytes of the largest allocation of a product besides its result."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        made = onednn._product(a, b, None)
    events = profiler.profiler.kineto_results.events()
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    sizes.remove(made.nbytes)
    return max(sizes, default=0)


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES.split())
def test_products_beside_those_of_torch(size, monkeypatch, capsys):
    monkeypatch.setattr(onednn, "faster", lambda: True)
    torch.set_num_threads(1)
    rows, fan_in, outputs = map(int, size.split("x"))
    x, weight = torch.randn(rows, fan_in), torch.randn(outputs, fan_in)
    gradient = torch.randn(rows, outputs)
    buffers = buffer(x, weight), buffer(gradient, weight.t()), buffer(x.t().contiguous(), gradient.t())
    times = {F.linear: [], onednn.linear: []}
    flops = 6 * rows * fan_in * outputs
    x.requires_grad_(), weight.requires_grad_()
    for turn in range(ROUNDS + 1):
        for linear in list(times) if turn % 2 else list(times)[::-1]:
            took = passes(linear, x, weight, gradient, 1 + int(2e9 / flops))
            # the first round warms up
            times[linear].extend([took] if turn else [])
    ratio = statistics.median(mine / theirs for theirs, mine in zip(*times.values(), strict=True))
    rates = [f"{flops / statistics.median(each) / 1e9:.0f}" for each in times.values()]
    with capsys.disabled():
        print(f"\n| {size} | {' | '.join(rates)} GFLOP/s | {ratio:.2f} | {max(buffers) / 1024:.0f} KiB |")
