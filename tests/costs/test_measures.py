"""A measure is one entry: one more is a cap, an objective, a match target, a table row and in the docs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_one_entry_is_all_that_a_measure_takes(tmp_path):
    package = tmp_path / "other-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n", "utf-8")
    (package / "entry_points.txt").write_text(
        "[composer.measures]\nblock_params = block_params:block_params\n", "utf-8"
    )
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (tmp_path, ROOT, here, here / "outside")))
    done = subprocess.run(
        [sys.executable, "-c", "import json, one_more_measure; print(json.dumps(one_more_measure.report()))"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert output["exact"] is output["traced"] is True
    assert "caps.block_params: expected at most 60k, got 68.2k" in output["capped"]
    assert "try: expert.experts" in output["capped"]
    assert output["kept"] == "accepted"
    assert "did you mean block_params?" in output["hint"]
    assert output["objective"] == [3, 0.5]
    assert output["matched"] == ["block_params"]
    assert output["compared"].count("block_params") == 1
    assert "block_params" in output["row"]
    assert "of blocks" in output["picture"]
    # as a cap and as what a baseline may be matched to
    assert output["schema"] >= 2
    for text in ("| `block_params` | count | 3 % |", "| of blocks |", "| `block_params` | a whole number"):
        assert text in output["docs"]
