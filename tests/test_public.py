"""What `import composer` offers."""

import subprocess
import sys

import composer

LISTED = """
import composer
print(*dir(composer))
from composer import *
print(*sorted(name for name in globals() if not name.startswith("_")))
"""


def test_dir_and_star_list_exactly_the_public_names_and_each_is_there():
    done = subprocess.run([sys.executable, "-c", LISTED], capture_output=True, text=True, timeout=60)
    listed, starred = (line.split() for line in done.stdout.splitlines())
    assert listed == sorted([*composer.__all__, "__version__"])
    assert starred == sorted([*composer.__all__, "composer"])
    assert {"load", "compile", "cost", "datamodule", "load_run"} <= {*dir(composer)}
    assert all(getattr(composer, name).__doc__ for name in composer.__all__)
