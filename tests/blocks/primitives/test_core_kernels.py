"""The Triton kernels of `blocks.primitives` against fp64, at odd sizes, from memory that starts as NaN."""

import pytest
import torch
from core_kernels import HEADS, ROWS, drawn, exact_add_norm, exact_rotary, table_for
from depth_kernels import check

from blocks.primitives.tiles import LARGEST, MEASURED, Shape, Tile, padded, tile

norm_kernel = pytest.importorskip("blocks.primitives.norm_kernel", exc_type=ImportError)
from blocks.primitives import fused, reference, rotary_kernel  # noqa: E402

DTYPES = [
    torch.float32,
    torch.float16,
    pytest.param(torch.bfloat16, marks=pytest.mark.gpu),
]


def summed(where, shape, dtypes=(torch.float32, torch.float32), of_norm=True, of_total=True):
    """Terms, gain and gradients, and what the kernels make of them."""
    first, second = dtypes
    wide = torch.promote_types(first, second)
    a, of_total = drawn([shape, shape if of_total else (0,)], first, where)
    b, of_norm = drawn([shape, shape if of_norm else (0,)], second, where, 1)
    (gain,) = drawn([shape[-1:]], wide, where, 2)
    given = [each if each.numel() else None for each in (of_norm, of_total)]
    result = norm_kernel.add_norm_forward(a, b, gain, wide)
    result += norm_kernel.add_norm_backward(*given, result[1], gain, dtypes)
    return result, exact_add_norm(a, b, gain, *given)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", ROWS)
def test_sum_and_norm_equal_fp64(where, size, dtype):
    got, expected = summed(where, ROWS[size], (dtype, dtype))
    check(got, expected, dtype)


def test_shares_of_a_gain_add_up_over_steps_of_any_size(where, monkeypatch):
    monkeypatch.setattr(fused, "fits", lambda *tensors: True)
    monkeypatch.setattr(norm_kernel, "PROGRAMS", 2)
    results = []
    for way in (fused.add_norm, reference.add_norm):
        gain, *terms = drawn([(40,), (1, 3, 40), (1, 3, 40), (1, 150, 40), (1, 150, 40)], device=where)
        leaves = [each.requires_grad_() for each in (gain, *terms)]
        (ready,) = fused.sum_gain(gain) if way is fused.add_norm else [gain]
        small, large = leaves[1:3], leaves[3:]
        loss = torch.zeros((), device=where)
        for pair in (small, large, small, large):
            normed, total = way(*pair, ready, False, True)
            loss = loss + normed.cos().sum() + total.sin().sum()
        results.append(torch.autograd.grad(loss, leaves))
    check(*results, torch.float32)


@pytest.mark.parametrize(("of_norm", "of_total"), [(True, False), (False, True)])
def test_either_output_may_have_no_gradient(where, of_norm, of_total):
    got, expected = summed(where, (2, 5, 24), of_norm=of_norm, of_total=of_total)
    check(got, expected, torch.float32)


def test_a_stream_in_fp32_takes_a_narrow_term_and_gives_each_its_own_gradient(where):
    got, expected = summed(where, (2, 5, 24), (torch.float32, torch.float16))
    assert [each.dtype for each in got[:4]] == [torch.float32] * 3 + [torch.float16]
    check([got[3]], [expected[3]], torch.float16)
    check([*got[:3], got[4]], [*expected[:3], expected[4]], torch.float32)


def test_each_program_goes_through_several_tiles(where, monkeypatch):
    for module in (norm_kernel, rotary_kernel):
        monkeypatch.setattr(module, "PROGRAMS", 2)
        monkeypatch.setattr(module, "tile", lambda shape: Tile(4, 1))
    check(*summed(where, (1, 37, 24)), torch.float32)
    shape = (1, 11, 3, 16)
    x, gradient, gain = drawn([shape, shape, (16,)], device=where)
    table = table_for(shape, where)
    check(
        [
            rotary_kernel.rotate_forward(x, table, gain),
            *rotary_kernel.rotate_backward(gradient, table, x, gain),
        ],
        exact_rotary(x, gain, table, gradient),
        torch.float32,
    )


def test_no_token_is_no_work(where):
    a = torch.zeros(2, 0, 24, device=where)
    made = norm_kernel.add_norm_backward(a, a, a, a.new_ones(24), (a.dtype, a.dtype))
    assert norm_kernel.add_norm_forward(a, a, a.new_ones(24), a.dtype)[0].shape == made[0].shape == a.shape
    assert not made[2].any()
    x = torch.zeros(2, 0, 3, 16, device=where)
    table, gain = table_for(x.shape, where), torch.ones(16, device=where)
    to_x, to_gain = rotary_kernel.rotate_backward(x, table, x, gain)
    assert rotary_kernel.rotate_forward(x, table, gain).shape == to_x.shape == x.shape
    assert not to_gain.any()


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", HEADS)
def test_turned_heads_equal_fp64(where, size, dtype, normed):
    shape = HEADS[size]
    x, gradient, gain = drawn([shape, shape, shape[-1:]], dtype, where)
    gain, table = gain if normed else None, table_for(shape, where)
    to_x, to_gain = rotary_kernel.rotate_backward(gradient, table, x, gain)
    results = [rotary_kernel.rotate_forward(x, table, gain), to_x, *([] if to_gain is None else [to_gain])]
    check(results, exact_rotary(x, gain, table, gradient), dtype)


def test_heads_are_read_where_they_lie(where, monkeypatch):
    """Slices of a joined projection, gradients that were transposed or expanded."""
    copies = []
    contiguous = torch.Tensor.contiguous
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda x: copies.append(x.shape) or contiguous(x))
    (joined,) = drawn([(2, 5, 100)], device=where)
    x = joined[..., 20:84].unflatten(-1, (4, 16))
    table, (gain,) = table_for(x.shape, where), drawn([(16,)], device=where)
    out = rotary_kernel.rotate_forward(x, table, gain)
    assert copies == []
    (laid,) = drawn([(2, 4, 5, 16)], device=where)
    for gradient in (laid.transpose(1, 2), laid[:1, :1, :1, :1].expand(2, 5, 4, 16)):
        made = rotary_kernel.rotate_backward(gradient, table, x, gain)
        check([out, *made], exact_rotary(x, gain, table, gradient), torch.float32)


def test_autograd_functions_give_the_gradients_of_the_references(where, monkeypatch):
    if where == "cpu":
        monkeypatch.setattr(fused, "fits", lambda *given: True)
    a, b, gain, x, scale = drawn([(2, 5, 24), (2, 5, 24), (24,), (2, 5, 3, 8), (8,)], device=where)
    table = table_for(x.shape, where)
    calls = {
        "add_norm": ((a, b, gain), (False, True)),
        "norm_rotate": ((x, table, scale), ()),
        "rotate": ((x, table), ()),
    }
    for name, (tensors, flags) in calls.items():
        results = []
        for module in (fused, fused.reference):
            leaves = [t if t.is_complex() else t.clone().requires_grad_() for t in tensors]
            made = getattr(module, name)(*leaves, *flags)
            outputs = made if isinstance(made, tuple) else (made,)
            weighted = sum(
                (each * torch.linspace(0, 1, each.numel(), device=where).view_as(each)).sum()
                for each in outputs
            )
            wanting = [leaf for leaf in leaves if leaf.requires_grad]
            results.append([*(each.detach() for each in outputs), *torch.autograd.grad(weighted, wanting)])
        check(*results, torch.float32)
    normed = fused.add_norm(a.requires_grad_(), b, gain, True, False)
    assert isinstance(normed, torch.Tensor)
    assert normed.dtype == torch.float32
    with torch.autocast(where, torch.float16):
        assert fused.add_norm(a, b, gain, True, False).dtype == torch.float16
        assert fused.add_norm(a, b, gain, False, False).dtype == torch.float32


def test_a_row_always_fits_its_tile(monkeypatch):
    for width in (6, 48, 64, 1024, LARGEST):
        for kernel in ("add_norm", "add_norm_backward", "rotate", "rotate_backward"):
            rows, warps = tile(Shape(kernel, 90, width))
            assert rows & (rows - 1) == 0
            assert rows * padded(width) / (32 * warps) <= 64
    shape = Shape("rotate", 90, 64)
    monkeypatch.setitem(MEASURED, shape, Tile(2, 8))
    assert tile(shape) == (2, 8)
    assert tile(shape._replace(architecture=100)) != (2, 8)
