"""Wiring values are found by the names of their files."""

import sys
from types import ModuleType

import pytest

from blocks.options import Options
from blocks.wiring.norm import Norm


def test_a_file_of_another_name_than_its_value_is_refused(monkeypatch):
    module = ModuleType(f"{Norm.__module__}.misnamed")
    module.Odd = type("Odd", (Norm,), {"name": "odd", "__module__": module.__name__})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("blocks.options.module_names", lambda package: {"misnamed"})
    with pytest.raises(ValueError, match="misnamed: expected a value called 'misnamed', got 'odd'"):
        Options(Norm)["misnamed"]
