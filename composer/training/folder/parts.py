"""Reads weights that the ranks of a run wrote in parts by torch.distributed.checkpoint."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

_METADATA = (
    *("Metadata", "MetadataIndex", "StorageMeta", "BytesStorageMetadata"),
    *("TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "_MEM_FORMAT_ENCODING"),
)
_KNOWN = {
    *(("torch.distributed.checkpoint.metadata", name) for name in _METADATA),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
}
"""The classes that an index of parts may contain, besides dtypes."""


def read_parts(folder: Path, key: str) -> dict[str, Tensor]:
    """Return the tensors that were written under a key, by name, unsharded and on the CPU."""
    reader = _Reader(folder)
    index = reader.read_metadata().state_dict_metadata
    weights = {
        name.removeprefix(f"{key}."): torch.empty(about.size, dtype=about.properties.dtype)
        for name, about in index.items()
        if name.startswith(f"{key}.") and isinstance(about, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        # that it reads alone, as it is asked to
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        state_dict_loader.load({key: weights}, storage_reader=reader, no_dist=True)
    return weights


class _Reader(FileSystemReader):
    """Reads an index that contains only the sizes and places of tensors."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the index without running other code that a pickle may name."""
        with Path(self.path, ".metadata").open("rb") as file:
            metadata: Metadata = _Index(file).load()
        return metadata


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in _KNOWN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of an index")
