"""`search.keep` decides who is stopped at a rung."""

import pytest
from fake_training import FakeTraining, accuracy, board, toy

from composer import load
from search.run.study import run_search


@pytest.mark.parametrize("keep", [0.1, 1.0])
def test_keep_is_the_share_that_goes_on_from_a_rung(tmp_path, keep):
    folder = tmp_path / "run"
    space = toy(tmp_path, f"search.keep={keep}", "search.trials=10", "search.sampler=random")
    run_search(space, folder, FakeTraining())
    trained = sorted(folder.glob("trials/*/spec.yaml"), key=lambda path: int(path.parent.name))
    values = [accuracy(load(path), 2048) for path in trained]
    # of at most ten, a tenth is one: only who is the best so far goes on
    records = {path.parent.name for n, path in enumerate(trained) if values[n] == max(values[: n + 1])}
    everyone = {path.parent.name for path in trained}
    assert 1 <= len(records) < len(everyone) == 10
    finished = {row["trial"] for row in board(folder) if row["status"] == "finished"}
    assert finished == (everyone if keep == 1 else records)
