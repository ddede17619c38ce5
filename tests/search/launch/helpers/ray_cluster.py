"""A Ray cluster of several nodes on this machine, as a process that obeys lines and ends with its input.

`add` starts a node with a CPU, `kill` kills the oldest of them as a power cut would. It answers each line,
and prints the address first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

LIMIT = 900
"""Seconds that it may live: as long as a few tests, on a machine that does much else."""


class RayCluster:
    """Controls such a process; a context manager that leaves nothing behind."""

    def __enter__(self) -> RayCluster:
        # short, since Ray puts sockets below it
        self._home = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
        # what tasks unpickle is in modules of tests
        paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        quiet = {
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            # a busy machine would hardly run them
            "RAY_worker_niceness": "0",
        }
        self._log = (Path(self._home.name) / "out").open("w")
        self._process = subprocess.Popen(
            ["timeout", "-k", "5", str(LIMIT), sys.executable, __file__, self._home.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | paths | quiet,
        )
        self.address = self._process.stdout.readline().strip()
        assert self.address, Path(self._log.name).read_text()
        return self

    def tell(self, order: str) -> None:
        """Give an order, and wait until it is done."""
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline().strip() == order

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.wait(120)
        self._process.stdout.close()
        self._log.close()
        self._home.cleanup()


def main(home: str) -> None:
    """Be the process."""
    from ray.cluster_utils import Cluster

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    size = {"object_store_memory": 80 << 20, "include_dashboard": False}
    os.environ["RAY_TMPDIR"] = home
    (Path(home) / "ray").mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **size})
    try:
        print(cluster.address, file=answers, flush=True)
        nodes = []
        for line in sys.stdin:
            if line.strip() == "add":
                nodes.append(cluster.add_node(num_cpus=1, **size))
            else:
                cluster.remove_node(nodes.pop(0), allow_graceful=False)
            print(line.strip(), file=answers, flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
