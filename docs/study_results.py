"""The tables of docs/study.md, from the committed rows of a study."""

from __future__ import annotations

from pathlib import Path

from search.study.load import load_study
from search.study.report import markdown

ROOT = Path(__file__).resolve().parents[1]


def study_results(argument: str) -> str:
    """Make the tables of a study; the argument names its file and its rows."""
    study, rows = (ROOT / path for path in argument.split())
    return markdown(load_study(study), rows)
