"""A field that is added to any config is known everywhere at once, and leaves every old hash as it was."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from added_fields import add_fields, hashes, known

from composer.language.schema.search import SearchConfig
from composer.language.schema.spec import Spec

ROOT = Path(__file__).parents[2]
KNOWN = known()


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What sees the new field of each config, by the config's name."""
    root = tmp_path_factory.mktemp("copy")
    for folder in ("blocks", "composer", "search", "docs", "specs"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.gif"))
    shutil.copy(ROOT / "pyproject.toml", root)
    add_fields(root)
    before = {name: hashes(tree) for name, (_, tree, _) in KNOWN.items()}
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "helpers" / "added_fields.py", root],
        input=json.dumps(before),
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(
                map(str, (root, ROOT / "tests" / "helpers", ROOT / "tests" / "language" / "helpers"))
            ),
            "OMP_NUM_THREADS": "1",
        },
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_config_of_the_language_is_looked_at():
    defined = {*Spec.model_json_schema()["$defs"], *SearchConfig.model_json_schema()["$defs"]}
    assert {*KNOWN} == (defined - {"Caps"}) | {"Spec", "SearchConfig"}


def test_a_new_field_is_seen_everywhere(seen):
    missing = {config: [part for part, result in seen[config].items() if not result] for config in KNOWN}
    assert {config: parts for config, parts in missing.items() if parts} == {}
