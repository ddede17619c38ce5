"""The bytes that stand after a forward pass with recomputation, and the FLOPs of a step, as measured."""

import weakref
from unittest.mock import patch

import pytest
import torch
from flops import grouped
from models import tokens_for
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from blocks.kernels.slot_memory import DepthMemory


class Storages(TorchDispatchMode):
    """Follows every storage that is made, apart from those of weights and depth slots."""

    def __init__(self, model):
        super().__init__()
        own = [*model.parameters(), *model.buffers()]
        self.apart = {tensor.untyped_storage()._cdata for tensor in own}
        self.made, self.slots = {}, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for each in results if isinstance(results, (tuple, list)) else (results,):
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage()
                self.made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return results

    def __enter__(self):
        def made(memory, *args, **kwargs):
            start(memory, *args, **kwargs)
            self.slots.append(weakref.ref(memory))

        start = DepthMemory.__init__
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(DepthMemory, "__init__", made)
        return super().__enter__()

    def __exit__(self, *error):
        self.patch.undo()
        super().__exit__(*error)

    def bytes(self):
        """Return the bytes of those that are alive."""
        memories = [memory for ref in self.slots if (memory := ref())]
        parts = (part for each in memories for part in tree_leaves([*vars(each).values()]))
        apart = {
            part.untyped_storage()._cdata for part in parts if isinstance(part, torch.Tensor)
        } | self.apart
        return sum(size for key, (ref, size) in self.made.items() if key not in apart and not ref.expired())


def alive(model, batch):
    """Return the bytes that stand after the forward pass; tokens count where they are kept."""
    with Storages(model) as storages:
        loss = model.loss(tokens_for(model.spec, batch), tokens_for(model.spec, batch))
    result = storages.bytes()
    del loss
    return result


def attention(q, k, v, *rest, out_shape=None, **named):
    """Both products of torch's fused attention on a CPU, which it counts as none."""
    return 4 * q[0] * q[1] * q[2] * k[2] * q[3]


def counted(model, batch=2):
    """Count by torch, as it runs when nobody watches: torch's counter watches all modules."""
    formulas = {
        torch.ops.aten._grouped_mm: grouped,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    }
    tokens = tokens_for(model.spec, batch)
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with patch("composer.module.model.anyone_watches", lambda model: False), counter:
        model.loss(tokens, tokens).backward()
    return counter.get_total_flops()
