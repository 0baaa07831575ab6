"""Two hundred rounds of faults; ATLAS_JAX_FAULT_ROUNDS asks for another number."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROUNDS = int(os.environ.get("ATLAS_JAX_FAULT_ROUNDS", "200"))


def test_every_round_ends_in_the_same_result_or_a_clear_line():
    command = [sys.executable, str(Path(__file__).with_name("rounds.py")), "--rounds", str(ROUNDS)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["failed"] == 0 and abs(told["rounds"] - ROUNDS) < 4
    seen = set(told["seen"])
    for kind, hows in {
        "kill": {"killed 1", "killed 2"},
        "fill": {"refused", "done"},
        "damage": {"noticed", "the same"},
        "network": {"refused", "the same"},
    }.items():
        # The faults were there, and some of them were felt.
        assert {entry.split(": ")[2] for entry in seen if entry.startswith(kind)} >= hows
