"""What all tests share: one torch thread, no GPU unless a test asks for it, seeded samples."""

import gc
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from processes import no_waiting_for_disks

# read by torch when it is imported, which torch-free tests never do
os.environ.setdefault("OMP_NUM_THREADS", "1")
# read by inductor: processes that compile, each of which imports torch, cost more than our few regions
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
# read by cuBLAS, which torch asks for it where only deterministic algorithms may run
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
if not Path("/dev/nvidiactl").exists():
    # read by triton when it is imported: without a GPU kernels are tested in its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="large samples, and tests marked slow")


def pytest_configure(config):
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # a shell's background jobs ignore SIGINT, and the processes that tests interrupt would inherit that
        signal.signal(signal.SIGINT, signal.default_int_handler)
    no_waiting_for_disks()
    full = config.getoption("--full")
    # read by tests/helpers/samples.py when a test module is imported
    os.environ["COMPOSER_FULL_TESTS"] = "1" if full else ""
    settings.register_profile(
        "seeded",  # the same examples on every machine
        max_examples=100 if full else 20,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        print_blob=True,
    )
    settings.load_profile("seeded")


# why tests were left out at collection, and how many
LEFT_OUT = pytest.StashKey[Counter[str]]()


def pytest_collection_modifyitems(config, items):
    """Leave out what does not run here: to skip thousands of tests one by one takes seconds."""
    reasons = {}
    if not config.getoption("--full"):
        reasons["slow"] = "slow: run by `make test-full`"
    if not Path("/dev/nvidiactl").exists():
        reasons["gpu"] = "no CUDA device"
    results = [
        next((why for mark, why in reasons.items() if item.get_closest_marker(mark)), None) for item in items
    ]
    config.stash[LEFT_OUT] = Counter(filter(None, results))
    items[:] = [item for item, why in zip(items, results, strict=True) if why is None]


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left out"] = dict(session.config.stash.get(LEFT_OUT, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Each worker of pytest-xdist collects all tests."""
    if output := getattr(node, "workeroutput", None):
        node.config.stash[LEFT_OUT] = Counter(output["left out"])


def pytest_collection_finish():
    """What imports and collection have made stays; the garbage collector need not look through it again."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    """One line for each reason for which tests did not run."""
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", ()))
    reasons += terminalreporter.config.stash.get(LEFT_OUT, Counter())
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"not run: {count} tests ({reason.removeprefix('Skipped: ')})")


@pytest.fixture(autouse=True)
def one_worker(monkeypatch):
    """A search is in the test's own process, unless it asks for `--workers`."""
    monkeypatch.setattr("search.run.worker_plan.available_cores", lambda: 1)


@pytest.fixture(autouse=True)
def uncalibrated(tmp_path_factory, monkeypatch):
    """No device that somebody calibrated on this account."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "nobody"))


@pytest.fixture(autouse=True)
def untimed_guards(monkeypatch):
    """Do not let torch time the guards of what it traces, for its logs: half the time of a small trace."""
    if "torch._dynamo.guards" in sys.modules:
        monkeypatch.setattr("torch._dynamo.guards.profile_guard_manager", lambda *_: 0.0, raising=False)


@pytest.fixture(autouse=True)
def device(request, monkeypatch):
    """Tests marked `gpu` are skipped without one; to all others there is none."""
    if request.node.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        if os.environ.get("TRITON_INTERPRET") == "1":
            pytest.skip("kernels are interpreted here")
        return
    # for processes that a test starts
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if "torch" in sys.modules:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
