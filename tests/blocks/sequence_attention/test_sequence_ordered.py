"""Sequence attention by backends in an order of our own: what it gives, what it leaves as it was."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from blocks.ir.kernel import Target
from blocks.sequence_attention import check, ordered
from blocks.sequence_attention.operations import Attend
from blocks.sequence_attention.reference import attend_causal

WHERE = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("sizes", [None, (3, 3, 40), (4, 1, 128)])
def test_its_self_test_holds(where, dtype, sizes):
    operation = sizes and Attend(*sizes)
    assert check.check_ordered(operation, Target(where, dtype)) == ""


@pytest.mark.parametrize("part", range(4))
def test_its_self_test_finds_what_is_wrong(part, monkeypatch):
    results = check._results

    def wrong(attend, *given):
        result = results(attend, *given)
        if attend is ordered.attend_ordered:
            result[part] = result[part] * 1.01
        return result

    monkeypatch.setattr(check, "_results", wrong)
    result = check.check_ordered(None, Target("cpu"))
    assert result.startswith(f"{check._NAMES[part]} is off by 0.01")


def test_the_order_is_ours_within_and_as_it_was_after(monkeypatch):
    seen, before = [], torch._C._get_sdp_priority_order()

    def attend(*given):
        seen.append((torch._C._get_sdp_priority_order(), torch.backends.cuda.flash_sdp_enabled()))
        raise ValueError("stopped")

    monkeypatch.setattr(ordered, "attend_causal", attend)
    with sdpa_kernel(SDPBackend.MATH), pytest.raises(ValueError, match="stopped"):
        ordered.attend_ordered(*torch.empty(3, 1, 1, 1, 8))
    assert seen == [([3, 1, 2, 0, 4], False)]
    assert torch._C._get_sdp_priority_order() == before


@pytest.mark.filterwarnings("ignore")  # of dynamo, about its own ways
def test_torch_compile_takes_it_whole():
    q, k, v = (torch.randn(1, 5, heads, 8) for heads in (4, 2, 2))
    compiled = torch.compile(ordered.attend_ordered, backend="eager", fullgraph=True)
    assert torch.equal(compiled(q, k, v), attend_causal(q, k, v))
