"""The Triton kernels of depth attention against fp64, at odd sizes, from memory that starts as NaN."""

import pytest
import torch
from depth_kernels import SIZES, check, drawn, exact, far

from blocks.depth_attention.backward_method import backward_method, pull_bytes, push_bytes
from blocks.depth_attention.tiles import MEASURED, Shape, Tile, tile

kernel = pytest.importorskip("blocks.depth_attention.kernel", exc_type=ImportError)
pull_kernel = pytest.importorskip("blocks.depth_attention.pull_kernel", exc_type=ImportError)

KINDS = [
    *(pytest.param(name, torch.float32, id=name) for name in SIZES),
    pytest.param("a group of 3, padded twice", torch.float16, id="fp16"),
    pytest.param("a tail of tokens", torch.bfloat16, id="bf16", marks=pytest.mark.gpu),
]


def both_ways(query, keys, values, gradient, first=0):
    """Output and gradients by the kernels, pushing and pulling."""
    reads, heads = len(keys), query.shape[2]
    out, log_sum = kernel.attend_forward(query, keys, values, reads)
    sums = [torch.zeros(keys.shape, device=keys.device) for _ in range(2)]
    given = (query, keys, values, out, log_sum, gradient)
    pushed, _ = kernel.attend_backward(*given, reads, push=kernel.Push(*sums, first))
    # pulled from where they are
    query, gradient = query.contiguous(), gradient.contiguous()
    table = torch.empty((1, kernel.COLUMNS), dtype=torch.int64, device=keys.device)
    made, delta = kernel.attend_backward(
        query, keys, values, out, log_sum, gradient, reads, row=kernel.Row(table, 0)
    )
    slots = [pull_kernel.pull(keys[s], values[s], table, 1, s, heads, keys.dtype) for s in range(reads)]
    assert delta.shape == log_sum.shape
    pulled = [torch.stack(each) for each in zip(*slots, strict=True)]
    return [out, pushed, *sums], [out, made, *pulled]


@pytest.mark.parametrize(("size", "dtype"), KINDS)
def test_outputs_and_gradients_equal_fp64_both_ways(where, size, dtype):
    inputs = drawn(SIZES[size], dtype, where)
    expected = exact(*inputs)
    for got in both_ways(*inputs):
        check(got, expected, dtype)


def test_a_read_ends_at_its_slots(where):
    query, keys, values, _ = drawn((1, 3, 2, 1, 32, 4), device=where)
    keys[2:], values[2:] = float("nan"), float("nan")
    out, _ = kernel.attend_forward(query, keys, values, 2)
    check([out], exact(query, keys[:2], values[:2], out)[:1], torch.float32)


def test_a_slot_takes_from_all_reads_that_saw_it(where):
    query, keys, values, gradient = drawn((1, 3, 3, 1, 32, 3), device=where)
    table = torch.empty((2, kernel.COLUMNS), dtype=torch.int64, device=where)
    alive, expected = [], [torch.zeros(keys.shape, dtype=torch.float64, device=where) for _ in range(2)]
    for row, reads in enumerate((3, 2)):
        kept = kernel.attend_forward(query, keys, values, reads)
        given = (query, keys, values, *kept, gradient, reads)
        alive += [kept, kernel.attend_backward(*given, row=kernel.Row(table, row))]
        for total, each in zip(
            expected, exact(query, keys[:reads], values[:reads], gradient)[2:], strict=True
        ):
            total[:reads] += each
    for slot in range(3):
        got = pull_kernel.pull(keys[slot], values[slot], table, 2, slot, 3, torch.float32)
        check(got, [each[slot] for each in expected], torch.float32)


def test_slots_before_the_first_are_not_pushed_to(where):
    inputs = drawn((1, 3, 2, 1, 32, 4), device=where)
    (_, _, keys, values), _ = both_ways(*inputs, first=2)
    assert not keys[:2].any()
    assert not values[:2].any()
    check([keys[2:], values[2:]], [each[2:] for each in exact(*inputs)[2:]], torch.float32)


def test_inputs_may_be_slices_and_gradients_expanded(where):
    query, keys, values, _ = drawn((2, 5, 4, 2, 40, 3), device=where)
    sliced = torch.cat((torch.full_like(query, torch.nan), query, query), -2)[:, :, 4:8]
    gradient = torch.ones((), device=where).expand(query.shape)
    check(both_ways(sliced, keys, values, gradient)[1], exact(query, keys, values, gradient), torch.float32)
    assert kernel.in_heads(sliced).data_ptr() == sliced.data_ptr()
    across = query.transpose(1, 2).contiguous().transpose(1, 2)
    check(both_ways(across, keys, values, gradient)[1], exact(query, keys, values, gradient), torch.float32)


def test_what_is_read_by_address_lies_at_whole_pieces(where):
    base = torch.zeros(2, 4, 8, device=where)
    odd = torch.zeros(65, device=where)[1:].view(2, 4, 8)
    assert kernel.readable(base) is base
    assert kernel.readable(odd).data_ptr() % 16 == 0
    assert kernel.readable(base.transpose(0, 1)).is_contiguous()


def test_scores_far_apart_do_not_overflow(where):
    query, keys, values, gradient = drawn((1, 4, 2, 1, 32, 3), device=where)
    inputs = (200 * query, keys, values, gradient)
    check(both_ways(*inputs)[1][:1], exact(*inputs)[:1], torch.float32)


def test_no_token_is_no_work(where):
    query, keys, values, gradient = drawn((2, 0, 2, 1, 32, 2), device=where)
    assert [each.numel() for each in both_ways(query, keys, values, gradient)[1]] == [0, 0, 0, 0]


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements_of_slots():
    sizes = (1, 2**19 + 37, 16, 16, 128, 2)
    batch, length, heads, kv_heads, head_dim, count = sizes
    query, gradient = (torch.randn(batch, length, heads, head_dim, device="cuda").half() for _ in range(2))
    keys, values = (
        torch.randn(count, batch, length, kv_heads, head_dim, device="cuda", dtype=torch.float16)
        for _ in range(2)
    )
    assert keys.numel() > 2**31
    _, got = both_ways(query, keys, values, gradient)
    cut = [query[:, -9:], keys[:, :, -9:], values[:, :, -9:], gradient[:, -9:]]
    ends = [got[0][:, -9:], got[1][:, -9:], got[2][:, :, -9:], got[3][:, :, -9:]]
    check(ends, exact(*cut), torch.float16)


def test_the_way_is_the_one_that_moves_fewer_bytes():
    # one slot of one element each: read and written, and q, dO, log-sum-exp and delta read for it
    assert pull_bytes(1, 1, 1, 1, 2) == (2 + 2) * 2 + (2 + 2) + 8
    # zeroed, then read, written, read in fp32, handed on in bf16
    assert push_bytes(1, 1, 1, 1, 2) == 2 * (4 + 4 + 4 + 4 + 2)
    for slots in (4, 16, 32):
        ways = [backward_method(heads, 4, 64, slots, 2) for heads in (4, 8, 12, 24, 32)]
        assert ways == ["pull", "pull", "pull", "push", "push"]
    assert backward_method(8, 2, 64, 16, 4) == "push"


def test_tiles_are_as_measured_or_fill_the_registers(monkeypatch):
    for group in (1, 3, 4, 8, 16):
        for head_dim in (16, 40, 64, 128):
            tokens, warps, _ = tile(Shape("forward", 90, head_dim, group))
            assert tokens & (tokens - 1) == 0
            per_thread = tokens * (1 << (group - 1).bit_length()) * head_dim / (32 * warps)
            assert per_thread <= 32
    shape = Shape("pull", 90, 64, 4)
    monkeypatch.setitem(MEASURED, shape, Tile(2, 8, 3))
    assert tile(shape) == (2, 8, 3)
    assert tile(shape._replace(architecture=100)) != (2, 8, 3)


def test_the_log_sum_exp_is_what_is_kept(where):
    query, keys, values, _ = drawn((1, 3, 2, 1, 32, 3), device=where)
    _, log_sum = kernel.attend_forward(query, keys, values, 3)
    scores = (query * keys).sum(-1).double() / 32**0.5
    assert far(log_sum, scores.logsumexp(0)) < 1e-6
