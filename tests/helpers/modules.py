"""Exported files as modules."""

import sys
import types


def module_of(source):
    """Run an exported file."""
    module = types.ModuleType("exported_model")
    # what looks for annotations finds the module by its name
    sys.modules[module.__name__] = module
    exec(compile(source, "exported_model.py", "exec"), module.__dict__)
    return module
