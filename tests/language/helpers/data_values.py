"""A valid section `train.data` for each task, and other values for the fields of generated ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, get_args

from pydantic import ValidationError

from composer.data.base.config import DataConfig
from composer.data.find import data_tasks

DATA: dict[str, dict[str, Any]] = {
    name: {"task": name, **({"length": 16, "path": "corpus"} if "path" in config.model_fields else {})}
    for name, config in data_tasks().items()
}


def other_fields(
    config: type[DataConfig], plain: dict[str, Any], model: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Yield for each field of a generated task a value near its default that fits the model."""
    fits = SimpleNamespace(**model)
    for key, field in config.model_fields.items():
        near = get_args(field.annotation) or tuple(field.default + i for i in (1, -1, 2, -2, 4, 8))
        for value in near if key != "task" else ():
            with suppress(ValidationError):
                if value != field.default and not [*config(**{**plain, key: value}).problems(fits)]:
                    yield key, value
                    break
