"""Processes on loopback, started as a launcher starts them: by environment variables."""

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def start(tmp_path, request):
    """Starts n processes of a command; those that still run at the end of the test are killed."""
    running = []

    def run(n, *command, **environment):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_PROCESSES": str(n),
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "MAPS": str(tmp_path),
            "PYTHONPATH": str(HERE.parents[1]),
        }
        started = []
        for i in range(n):
            errors = open(tmp_path / f"errors-{len(running)}", "w+")  # noqa: SIM115 (read later)
            process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                env={**os.environ, **shared, "JAX_PROCESS_ID": str(i), **environment},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            process.errors = errors
            started.append(process)
            running.append(process)
        return started

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.errors.close()


@pytest.fixture(scope="session")
def pod():
    """What process.py defines."""
    return runpy.run_path(str(HERE / "process.py"))


@pytest.fixture
def ended():
    """Waits for processes; their exit codes and what they said."""

    def wait(processes, seconds=240):
        codes, said = [], []
        for process in processes:
            codes.append(process.wait(seconds))
            process.errors.seek(0)
            said.append(process.errors.read())
        return codes, said

    return wait
