"""The inspection's page, without a model."""

import re

import pytest

from composer.inspect.inspect import Inspected
from composer.inspect.page import page


@pytest.mark.parametrize(
    ("paths", "title"),
    [
        (("runs/a/model.safetensors", "runs/b/model.safetensors"), "tiny a and tiny b"),
        (("runs/a/best.pt", "runs/a/last.pt"), "tiny best.pt and tiny last.pt"),
        (("runs/a/best.pt", "runs/a/best.pt"), "tiny and tiny"),
        (("runs/a/best.pt",), "tiny"),
    ],
)
def test_runs_of_one_spec_are_told_apart_by_their_paths(paths, title):
    runs = [Inspected("tiny", path, {}, 10, 1, 2, "stages.0", True) for path in paths]
    assert re.findall("<h1>(.*?)</h1>", page(runs, [])) == [title]
