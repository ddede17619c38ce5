"""A PostgreSQL server of Debian's package in a folder of its own, for as long as a test needs it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

_USER = "postgres"
"""Who runs it where we are root, which a server refuses to be; the package makes this account."""


def missing() -> str:
    """Why there can be no server here, empty where there can."""
    if _programs() is None:
        return "no PostgreSQL server, such as Debian's package postgresql, below /usr/lib/postgresql"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "no psycopg, which the extra `postgresql` installs"
    return ""


def _programs() -> Path | None:
    return max(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), default=None
    )


class Server:
    """Listens on a port of 127.0.0.1."""

    def __init__(self) -> None:
        # not below a test's folder, which other accounts may not enter
        self.home = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self.data = self.home / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if os.geteuid() == 0:
            shutil.chown(self.home, _USER)
        self._run("initdb", "-D", self.data, "-A", "trust", "-U", "tester", "--no-sync")
        self.start()

    def url(self, database: str = "postgres") -> str:
        """Where a search finds a database, made where there is none."""
        import psycopg

        with psycopg.connect(
            f"postgresql://tester@127.0.0.1:{self.port}/postgres", autocommit=True
        ) as connection:
            names = {name for (name,) in connection.execute("select datname from pg_database")}
            if database not in names:
                connection.execute(f'create database "{database}"')
        return f"postgresql://tester@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = f"-p {self.port} -k '' -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-D", self.data, "-w", "-l", self.home / "log", "-o", options, "start")

    def stop(self) -> None:
        """Cut all connections and stop."""
        self._run("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        """Stop and take everything away."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def _run(self, program: str, *arguments: object) -> None:
        programs = _programs()
        assert programs is not None
        as_user = {"user": _USER, "group": _USER, "extra_groups": []} if os.geteuid() == 0 else {}
        command = [str(programs / program), *map(str, arguments)]
        with (self.home.parent / f"{self.home.name}.out").open("w+") as output:
            done = subprocess.run(command, stdout=output, stderr=output, cwd=self.home, timeout=60, **as_user)
            output.seek(0)
            assert done.returncode == 0, output.read()
        os.unlink(output.name)


def execute(url: str, statement: str) -> None:
    """Run a statement, and commit."""
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute(statement)


def query(url: str, statement: str) -> list[tuple]:
    """Return the rows of a query."""
    import psycopg

    with psycopg.connect(url) as connection:
        return connection.execute(statement).fetchall()
