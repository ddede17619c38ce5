"""The kernel launches of one training step of a spec, and whether a CUDA graph can record it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from composer.costs.memory.peak import trained_length
from composer.graph.lowering.build import micro_batch_tokens
from composer.graph.passes.choose_kernels import Kernels
from composer.language.schema.spec import Spec
from composer.launches.fake_gpu import Precision, fake_gpu
from composer.launches.launches import Launch, TritonLaunch, counted
from composer.module.capture.recorder import Work
from composer.module.generates import decoder
from composer.module.generation.recorded import RecordedDecoder
from composer.module.model import ComposedModel
from composer.settings.errors import UserError

_OURS = Path(__file__).parents[2]


class DependsOnData(UserError):
    """The launches of a step or their sizes depend on data on the device."""


def step_launches(
    spec: Spec,
    by_hand: Callable[[], nn.Module] | None = None,
    watch: Callable[[TritonLaunch], None] | None = None,
    precision: Precision = "bfloat16",
    kernels: Kernels = "auto",
) -> list[Launch]:
    """Return the launches of a forward and a backward pass of one micro-batch, nothing recomputed.

    Weights are in fp32 without gradients of an earlier step, under autocast if `precision` is bfloat16; the
    optimizer is not counted. The model is that of the spec, or the one that `by_hand` builds, which maps
    tokens and targets to the loss. `watch` is called with each launch of a Triton kernel, and may compile it.

    Raises:
        DependsOnData: the host waits for data of the device, so no CUDA graph can record the step.
    """
    length = trained_length(spec)
    batch = micro_batch_tokens(spec) // length
    with fake_gpu(precision):
        if by_hand is None:
            composed = ComposedModel(spec, kernels, torch_compile="off", recompute=())
            model, loss_of = composed, composed.loss
        else:
            model = loss_of = by_hand()  # type: ignore[assignment]
        _make_fake(model)
        tokens = torch.zeros(batch, length, dtype=torch.int64)
        with _data_dependence_named(), counted(watch) as launches:
            loss = loss_of(tokens, tokens.clone())
            torch.clear_autocast_cache()
            launches.phase = "backward"
            with torch.autocast("cpu", enabled=False):
                loss.backward()  # type: ignore[no-untyped-call]
    return launches.made


def decoding_launches(
    spec: Spec,
    rows: int = 1,
    watch: Callable[[TritonLaunch], None] | None = None,
    precision: Precision = "bfloat16",
) -> list[Launch]:
    """Return the launches of the step that generation records after its prompts and replays for each token.

    Sampling is not part of the recording, and not counted. `rows` is the number of prompts.

    Raises:
        DependsOnData: the host waits for data of the device, so no CUDA graph can hold the step.
        CannotCapture: which tokens a step runs depends on data.
        ValueError: the model does not run token by token.
    """
    with fake_gpu(precision), torch.no_grad():
        model = ComposedModel(spec, torch_compile="off", recompute=())
        _make_fake(model)
        decode = RecordedDecoder(decoder(model.eval(), spec.model.context), _Once(), required=True)
        token = torch.zeros(rows, 1, dtype=torch.int64)
        with _data_dependence_named():
            with counted():
                decode(token)
            with counted(watch) as launches:
                decode.record(token)
    return launches.made


class _Once:
    """A recorder that runs work once."""

    def refusal(self, device: torch.device) -> str:
        return ""

    def warm_up(self, work: Callable[[], object]) -> None:
        pass

    def record(self, work: Work) -> tuple[list[Tensor], Callable[[], None]]:
        return [*work()], lambda: None


@contextmanager
def _data_dependence_named() -> Iterator[None]:
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        ours = [each for each in extract_tb(error.__traceback__) if _is_ours(Path(each.filename))]
        place = next(each for each in reversed(ours) if "launches" not in each.filename)
        where = f"{Path(place.filename).relative_to(_OURS)}:{place.lineno}, in {place.name}"
        raise DependsOnData(
            f"neither can a CUDA graph hold this step nor can it be counted: {error.func} waits for the GPU\n"
            f"at {where}"
        ) from None


def _is_ours(path: Path) -> bool:
    # a virtual environment may be inside the checkout
    return _OURS in path.parents and "site-packages" not in path.relative_to(_OURS).parts


def _make_fake(model: nn.Module) -> None:
    """Replace all tensors of a model with fake ones."""
    for module in model.train().modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
