"""Products in fp32 by oneDNN beside torch's own: processor time of one thread, and the memory they take."""

import statistics
import time
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from blocks.kernels import onednn
from blocks.latent_attention import by_onednn as latent_by_onednn
from blocks.latent_attention import reference as latent
from blocks.wiring.inject.concat import inject_concat, inject_concat_by_onednn
from blocks.wiring.loss.cross_entropy import by_chunks
from blocks.wiring.loss.cross_entropy import by_onednn as loss_by_onednn

ROUNDS = 9
# rows, fan-in, outputs: projections of the family and of models of 0.2M to 27M parameters
SIZES = """
1536x48x144 1536x64x192 1024x64x64 1024x64x352 1024x128x384 1024x128x688 512x256x768 512x256x1408
512x704x256 256x512x1536 256x512x2752 256x1376x512 256x512x1000 2048x512x512 1000x300x700
"""


def median_times(*runs):
    """Return the median of each run's time in seconds, and of its ratio to the first one's."""
    times = [[] for _ in runs]
    for turn in range(ROUNDS + 1):
        for number in list(range(len(runs)))[:: 1 if turn % 2 else -1]:
            repeats, began = 0, time.thread_time()
            while time.thread_time() - began < 0.03:
                runs[number]()
                repeats += 1
            # the first round warms up
            times[number].extend([(time.thread_time() - began) / repeats] if turn else [])
    ratios = ([mine / first for mine, first in zip(each, times[0], strict=True)] for each in times)
    return [*map(statistics.median, times)], [*map(statistics.median, ratios)]


def passes(function, *given):
    """Run a function forward and backward."""
    for each in given:
        each.grad = None
    made = function(*given)
    y = made[0] if isinstance(made, tuple) else made
    y.backward(torch.ones_like(y))


def buffer(a, b):
    """Return the bytes of the largest allocation of a product besides its result."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        made = onednn._product(a, b, None)
    events = profiler.profiler.kineto_results.events()
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    sizes.remove(made.nbytes)
    return max(sizes, default=0)


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(onednn, "faster", lambda: True)
    torch.set_num_threads(1)


def drawn(*shapes):
    return [(torch.randn(shape) * shape[-1] ** -0.5).requires_grad_() for shape in shapes]


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES.split())
def test_products_beside_those_of_torch(size, capsys):
    rows, fan_in, outputs = map(int, size.split("x"))
    x, weight = drawn((rows, fan_in), (outputs, fan_in))
    gradient = torch.randn(rows, outputs)
    buffers = buffer(x, weight), buffer(gradient, weight.t()), buffer(x.t().contiguous(), gradient.t())
    times, ratios = median_times(*(partial(passes, each, x, weight) for each in (F.linear, onednn.linear)))
    rates = [f"{6 * rows * fan_in * outputs / each / 1e9:.0f}" for each in times]
    with capsys.disabled():
        print(f"\n| {size} | {' | '.join(rates)} GFLOP/s | {ratios[1]:.2f} | {max(buffers) / 1024:.0f} KiB |")


def latent_attention(sequences, length, heads, size, compressed):
    rope = size // 2
    given = drawn(
        (sequences, length, heads, size),
        (sequences, length, 1, rope),
        (sequences, length, compressed),
        (heads * (size - rope), compressed),
        (heads * size, compressed),
    )
    products = [(given[2], given[3]), (given[2], given[4])]
    return latent.attend, latent_by_onednn.attend, given, products


def concat(sequences, length, width):
    given = drawn(*[(sequences, length, width)] * 2, (width, 2 * width))
    products = [(torch.cat(given[:2], -1).detach().requires_grad_(), given[2])]
    return inject_concat, inject_concat_by_onednn, given, products


def loss(tokens, width, vocab):
    given = drawn((1, tokens, width), (vocab, width))
    targets = torch.randint(vocab, (1, tokens))
    one, other = (
        lambda x, weight, way=way: way(x, targets, weight)
        for way in (by_chunks.head_loss, loss_by_onednn.head_loss)
    )
    # the third product stays as it is
    return one, other, given, [(given[0].detach(), given[1])]


OPERATIONS = [
    *[(latent_attention, size) for size in ((32, 48, 4, 16, 24), (16, 64, 4, 32, 64), (4, 64, 8, 64, 192))],
    *[(concat, size) for size in ((32, 48, 48), (16, 64, 128), (4, 64, 512))],
    *[(loss, size) for size in ((4096, 64, 8192), (2048, 128, 16384))],
]


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.parametrize(("operation", "size"), OPERATIONS)
def test_operations_beside_those_with_products_of_torch(operation, size, capsys):
    plain, by_onednn, given, products = operation(*size)

    def alone():
        for each in products:
            passes(F.linear, *each)

    times, ratios = median_times(partial(passes, plain, *given), partial(passes, by_onednn, *given), alone)
    cells = [f"{1000 * times[0]:.2f} ms", *(f"{each:.2f}" for each in ratios[1:])]
    with capsys.disabled():
        print(f"\n| {operation.__name__} {size} | {' | '.join(cells)} |")
