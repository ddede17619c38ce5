import subprocess
from types import SimpleNamespace

import pytest
from processes import ForkedRank
from runs import spec


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    from composer.training import recorder

    monkeypatch.setattr(recorder, "_ROWS", 8)  # one row in 3 steps


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run."""
    from composer.training import recorder
    from composer.training.run import run_training

    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "_ROWS", 8)
        return run_training(spec(), folder)


@pytest.fixture
def forked_ranks(monkeypatch):
    """Other ranks are forked, for tests of what they compute and not of how they start and end."""
    from composer.training.processes import ranks

    names = SimpleNamespace(Popen=ForkedRank, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(ranks, "subprocess", names)
