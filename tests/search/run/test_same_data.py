"""A search ranks only what was trained on the same data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_training import FakeTraining, toy
from importing_cases import imported, records

from composer.language.space import Space
from search.errors import SearchError
from search.run.study import run_search

PROSE = "".join(f"line {i} of a déjà vu\n" for i in range(60))
OTHER = PROSE.replace("vu", "lu")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "corpus.txt").write_text(PROSE)
    return tmp_path / "corpus.txt"


def settings(root: Path) -> list[str]:
    data = f"train.data={{task: text, path: {root / 'corpus.txt'}, length: 32, eval_fraction: 0.25}}"
    return [data, "model.vocab=256", "caps={params: 80k, flops_per_token: 250k}", "search.rungs=[]"]


def text(root: Path, *overrides: str) -> Space:
    """The toy space on a text."""
    return toy(root, *settings(root), *overrides)


def test_records_hold_the_fingerprint_and_a_changed_corpus_is_refused_with_what_changed(
    corpus: Path, tmp_path: Path
) -> None:
    run_search(text(tmp_path, "search.trials=2"), tmp_path / "run", FakeTraining())
    marks = [record["data"] for record in records(tmp_path / "run").values()]
    assert marks == [{"place": f"{corpus}, None", "digest": marks[0]["digest"]}] * 2
    corpus.write_text(OTHER)
    training = FakeTraining()
    for trials in (2, 4):
        with pytest.raises(
            SearchError, match=r"changed since trial \d was trained .*\n  sha256 \w+ -> sha256"
        ):
            run_search(text(tmp_path, f"search.trials={trials}"), tmp_path / "run", training)
    assert training.calls == []
    corpus.write_text(PROSE)
    run_search(text(tmp_path, "search.trials=4"), tmp_path / "run", training)
    assert len(training.calls) == 2


def test_a_corpus_that_changes_amid_a_search_stops_it_before_the_next_trial(
    corpus: Path, tmp_path: Path
) -> None:
    def rewrite(spec: object, tokens: int) -> None:
        corpus.write_text(OTHER)

    training = FakeTraining(rewrite)
    with pytest.raises(SearchError, match="the data has changed since trial 0 was trained"):
        run_search(text(tmp_path), tmp_path / "run", training)
    assert len(training.calls) == 1
    corpus.write_text(PROSE)
    ended = run_search(text(tmp_path), tmp_path / "run", FakeTraining())
    assert [record.status for record in ended.state.ledger.trials()] == ["finished"] * 6


def test_a_search_from_before_fingerprints_goes_on_with_a_warning(corpus: Path, tmp_path: Path) -> None:
    run_search(text(tmp_path, "search.trials=2"), tmp_path / "run", FakeTraining())
    for path in (tmp_path / "run" / "records").glob("*.json"):
        record = json.loads(path.read_text())
        del record["data"]
        path.write_text(json.dumps(record))
    with pytest.warns(UserWarning, match="2 runs began before fingerprints of data were kept"):
        run_search(text(tmp_path, "search.trials=3"), tmp_path / "run", FakeTraining())


def test_results_on_other_data_are_not_imported(corpus: Path, tmp_path: Path) -> None:
    run_search(text(tmp_path), tmp_path / "old", FakeTraining())
    corpus.write_text(OTHER)
    assert imported(tmp_path, *settings(tmp_path)).startswith(
        "imported 0 of 6 runs; trained on other data: 6 (trial 0: "
    )
    corpus.write_text(PROSE)
    assert imported(tmp_path, *settings(tmp_path)) == "imported 6 of 6 runs"
