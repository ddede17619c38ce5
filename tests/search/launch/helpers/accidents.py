"""Accidents of what all workers share, under any launcher: the database goes away, the disk is full."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import TRIALS, WAIT, Command, is_running, opened, wait_for
from database_checks import check_all
from postgresql import Server
from worker import check

from composer.language.space import load_space

_SIZE = "8m"


def check_database_away(root: Path, begin: Callable[..., Command], *launcher: str) -> None:
    """Stop the server amid a search and start it again; all workers wait for it, and nothing is lost."""
    server = Server()
    try:
        url = server.url("jobs")
        command = begin(0.1, *launcher, "--storage", url)
        command.hold.unlink()
        work = command.run / "work.log"
        wait_for(lambda: work.exists() and len(work.read_text().splitlines()) > 2)
        server.stop()
        time.sleep(float(os.environ.get("DATABASE_AWAY", "1")))
        server.start()
        assert command.process.wait(WAIT) == 0, command.err.read_text()
        check_all(root, url, load_space(root / "space.yaml", TRIALS[1::2]))
    finally:
        server.remove()


def check_full_disk(root: Path, begin: Callable[..., Command], *launcher: str) -> None:
    """Fill the disk of the folder while all train; the command says so, and with room again goes on."""
    with small_disk(root / "run"):
        command = begin(0.05, *launcher)
        command.until_all_train()
        filler = root / "run" / "filler"
        fill(filler)
        command.hold.unlink()
        assert command.process.wait(WAIT) != 0
        wait_for(lambda: not any(map(is_running, command.seen)))
        assert "No space left on device" in command.err.read_text() + command.out.read_text()
        filler.unlink()
        again = begin(0.01, *launcher)
        again.until_all_train(1)
        assert again.end() == 0
        check(root, 6, opened(again.run), again.records(), killed=2)


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """Mount a disk of a few megabytes; only root may."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(path)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL, timeout=30).returncode:
        pytest.skip("no right to mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=30)


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return
