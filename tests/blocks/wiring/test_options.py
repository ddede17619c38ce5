"""Wiring values are found by the names of their files."""

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest

from blocks.options import Options
from blocks.wiring.norm import Norm
from blocks.wiring.norm.pre import PreNorm


def test_a_file_of_another_name_than_its_value_is_refused(monkeypatch):
    module = ModuleType(f"{Norm.__module__}.misnamed")
    module.Odd = type("Odd", (Norm,), {"name": "odd", "__module__": module.__name__})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("blocks.options.module_names", lambda package: {"misnamed"})
    with pytest.raises(ValueError, match="misnamed: expected a value called 'misnamed', got 'odd'"):
        Options(Norm)["misnamed"]


def test_a_value_is_there_for_a_thread_that_asks_while_another_imports_it(monkeypatch):
    options = Options(Norm)

    def importing(name: str) -> object:
        monkeypatch.undo()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(options.get, "pre").result(60) is PreNorm
        return importlib.import_module(name)

    monkeypatch.setattr(importlib, "import_module", importing)
    assert options["pre"] is PreNorm
