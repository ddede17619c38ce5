"""Which files a source names, and of which format each is."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import composer.data.building.formats
from composer.data.base.corpus import find_sources
from composer.data.base.errors import DataError
from composer.data.base.split import TRAIN
from composer.data.building.base.extras import needed
from composer.data.building.base.files import head, plain_name
from composer.data.building.base.source import Format, Options, Unit
from composer.settings.errors import listed

HUB = "hf:"
"""Begins the name of a data set on the Hugging Face hub."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_CHUNKS = "index.json"


@cache
def formats() -> dict[str, Format]:
    """Return the formats by name: every file of `composer.data.building.formats`."""
    package = composer.data.building.formats
    known = [
        importlib.import_module(f"{package.__name__}.{each.name}").FORMAT
        for each in pkgutil.iter_modules(package.__path__)
    ]
    return {each.name: each for each in sorted(known, key=lambda each: (each.general, each.name))}


def find_units(source: str, options: Options, glob: str | None = None, split: str = TRAIN) -> Iterator[Unit]:
    """Yield the units of work of a source: a file, a folder, or `hf:owner/name[/config[/split]]`.

    Raises:
        DataError: nothing is there, or a file cannot be read.
    """
    for path in _files(source, glob):
        source_format = _format(path, options)
        for start, end, size in source_format.units(path, options):
            yield Unit(source_format.name, str(path), start, end, size, split)


def _files(source: str, glob: str | None) -> list[Path]:
    if source.startswith(HUB):
        return _hub_files(source)
    path = Path(source)
    if not os.path.exists(source) and _HUB_NAME.fullmatch(source):
        raise DataError(
            f"file not found: {source} (relative to {Path.cwd()}); for a data set of the Hugging Face hub "
            f"give {HUB}{source}"
        )
    if glob is None and path.is_dir():
        if (
            formats()["litgpt"].recognises(_CHUNKS, path / _CHUNKS, b"")
            if (path / _CHUNKS).is_file()
            else False
        ):
            return [path / _CHUNKS]
        arrow = sorted(path.glob("**/*.arrow"))
        if arrow and any(path.glob("**/dataset_info.json")):
            return [file for file in arrow if not file.name.startswith("cache-")]
    return [Path(source_file.path) for source_file in find_sources(source, glob)]


def _hub_files(source: str) -> list[Path]:
    """Download the Parquet files that the hub keeps of a data set, and return those of one split."""
    hub = needed("huggingface_hub", f"{source}: reading from the Hugging Face hub")
    owner, name, config, split, *_ = *source.removeprefix(HUB).split("/"), "", "", "", ""
    if not owner or not name:
        raise DataError(f"expected {HUB}owner/name, {HUB}owner/name/config or ../config/split, got {source}")
    split = split or "train"
    wanted = [f"{config or '*'}/{kind}{split}/*.parquet" for kind in ("", "partial-")]
    try:
        folder = hub.snapshot_download(
            f"{owner}/{name}", repo_type="dataset", revision="refs/convert/parquet", allow_patterns=wanted
        )
    except Exception as error:  # of many kinds: HTTP, a missing repository, no network
        raise DataError(f"{source}: cannot be downloaded: {type(error).__name__}: {error}") from None
    files = sorted(file for pattern in wanted for file in Path(folder).glob(pattern))
    configs = sorted({file.parents[1].name for file in files})
    if not configs:
        raise DataError(
            f"{source}: the hub has no Parquet files of {config or 'any config'} with the split {split}"
        )
    if len(configs) > 1:
        raise DataError(
            f"{source}: has the configs {listed(configs, 'and')}; choose one: {source}/{configs[0]}"
        )
    return files


def _format(path: Path, options: Options) -> Format:
    if options.format:
        return formats()[options.format]
    name, start = plain_name(path), head(path)
    return next(each for each in formats().values() if each.recognises(name, path, start))
