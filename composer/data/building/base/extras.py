"""Packages that only some builds need: imported late, and named with the extra that installs them."""

from __future__ import annotations

import importlib
from typing import Any

from composer.data.base.errors import DataError


def needed(package: str, purpose: str) -> Any:
    """Import a package of the extra `data`.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.partition(".")[0]
        raise DataError(
            f"{purpose} needs the package {name}, which cannot be imported ({error}); "
            "install it with: pip install 'attention-composer[data]'"
        ) from None
