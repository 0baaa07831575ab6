"""Several processes give what one gives; when one dies, the others say so and end."""

import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from atlas_jax.activations import ActivationStore
from atlas_jax.errors import InputError
from atlas_jax.parallel import find_processes, start_processes

PROCESS = Path(__file__).parent / "process.py"


@pytest.fixture(scope="module")
def alone(pod, tmp_path_factory):
    """The stores and the translations of one process."""
    folder = tmp_path_factory.mktemp("alone")
    stores = pod["record"](folder)
    return stores, pod["translate"](*stores)


def check(alone, place, maps):
    """The stores bit for bit, the translations but for the order of float32 sums."""
    stores, expected = alone
    for name, store in zip(("subject", "atlas"), stores, strict=True):
        other = ActivationStore.open(f"{place}/{name}")
        for site in store.sites:
            np.testing.assert_array_equal(other[site][:], store[site][:])
    found = np.load(maps / "maps.npz")
    assert set(found) == set(expected)
    for name, matrix in expected.items():
        # Solving multiplies what the order of sums leaves by the condition of the atlas.
        close = 1e-5 if name.endswith(("ridge", "procrustes")) else 1e-6
        np.testing.assert_allclose(found[name], matrix, atol=close * np.abs(matrix).max())


def test_a_process_dies_the_other_ends_and_four_go_on(alone, start, ended, tmp_path):
    place = tmp_path / "run"
    first = start(2, PROCESS, place, 0.2, ATLAS_JAX_LOST_AFTER="6")
    ledger = place / "subject" / "ledger"
    while not (ledger.is_dir() and any(ledger.iterdir())):
        assert all(process.poll() is None for process in first)
        time.sleep(0.05)
    first[1].kill()
    killed = time.monotonic()
    codes, said = ended(first, 60)
    assert time.monotonic() - killed < 45
    assert codes[0] not in (0, 2) and codes[1] == -9
    assert "another process of this run has ended" in said[0] or "another task died" in said[0]
    with pytest.raises(InputError, match="run the same capture again"):
        ActivationStore.open(place / "subject")
    codes, said = ended(start(4, PROCESS, place))
    assert codes == [0] * 4, said
    check(alone, place, tmp_path)


def test_two_processes_share_a_bucket(alone, start, ended, tmp_path, monkeypatch):
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{url}/pod", method="PUT")).close()
    for name, value in (
        ("AWS_ENDPOINT_URL", url),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ):
        monkeypatch.setenv(name, value)
    codes, said = ended(start(2, PROCESS, "s3://pod/run"))
    assert codes == [0, 0], said
    check(alone, "s3://pod/run", tmp_path)
    server.stop()


def test_a_failure_of_one_ends_all_with_one_line(start, ended, tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    codes, said = ended(start(2, PROCESS, tmp_path / "run", ATLAS_JAX_LOST_AFTER="6"), 60)
    assert sorted(codes)[0] != 0 and 2 in codes
    lines = [line for text in said for line in text.splitlines() if "atlas-jax: " in line]
    assert any("Could not write" in line or "Expected" in line for line in lines)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}, (4, 3)),
        ({"SLURM_STEP_NUM_TASKS": "16", "SLURM_PROCID": "0", "SLURM_NTASKS": "16"}, (16, 0)),
        ({"SLURM_NTASKS": "16", "SLURM_PROCID": "0"}, None),  # the batch script, not a step of srun
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, (2, 1)),
        ({"PMI_SIZE": "2", "PMI_RANK": "1", "SLURM_STEP_NUM_TASKS": "1"}, (2, 1)),
    ],
)
def test_what_launchers_say(environment, expected):
    assert find_processes(environment) == expected


def test_what_cannot_be_joined(monkeypatch):
    with pytest.raises(InputError, match="in JAX_NUM_PROCESSES and JAX_PROCESS_ID, got '4' and ''"):
        find_processes({"JAX_NUM_PROCESSES": "4"})
    with pytest.raises(InputError, match="process from 0 to 1, got 2"):
        start_processes("127.0.0.1:1", 2, 2)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "5")
    with pytest.raises(InputError, match="process from 0 to 1, got 5"):
        start_processes()
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    monkeypatch.setenv("ATLAS_JAX_LOST_AFTER", "soon")
    with pytest.raises(InputError, match="ATLAS_JAX_LOST_AFTER as a number of seconds, got 'soon'"):
        start_processes()
    monkeypatch.setenv("ATLAS_JAX_DISTRIBUTED", "0")
    start_processes()


def test_a_coordinator_that_nobody_named(start, ended, tmp_path):
    started = start(2, PROCESS, tmp_path, JAX_COORDINATOR_ADDRESS="nowhere")
    codes, said = ended(started)
    assert codes == [2, 2] and said[0].count("\n") == 1
    assert "JAX_COORDINATOR_ADDRESS as host:port of process 0, got 'nowhere'" in said[0]


def test_a_launcher_that_names_none(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    with pytest.raises(InputError, match="Could not join process 1 of 2: .* Set JAX_COORDINATOR"):
        start_processes()
