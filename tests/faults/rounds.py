"""Faults at random points of every stage: kills, full disks, damaged files, a bad network.

    python tests/faults/rounds.py --rounds 2000 --seed 1
    python tests/faults/rounds.py --kind damage --first 1785 --rounds 1

Every round must end in the result of an undisturbed run, or in one clear line; afterwards the same
call, undisturbed, gives that result. Prints what failed, with the seed that repeats it, and then
what was seen, as JSON. Ends with 1 if a round failed.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

# A connection that stands still is given up sooner than the engine does.
os.environ["TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS"] = "2"

SHARES = {"kill": 0.15, "fill": 0.1, "damage": 0.71, "network": 0.04}
"""Of the rounds; stages are forked before JAX has started, so kills and full disks come first."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="the first round is 100000 times this")
    parser.add_argument("--first", type=int, help="number of the first round; default: by --seed")
    parser.add_argument("--kind", choices=SHARES, help="rounds of one kind; default: of all")
    given = parser.parse_args()
    first = 100_000 * given.seed if given.first is None else given.first
    seen: Counter[str] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind in [given.kind] if given.kind else SHARES:
            count = given.rounds if given.kind else round(given.rounds * SHARES[kind])
            play = player(kind, Path(folder))
            for seed in range(first, first + count):
                try:
                    what, how = play(seed)
                    seen[f"{kind}: {what.split(': ')[1].split(',')[0]}: {how}"] += 1
                except AssertionError as error:
                    failed += 1
                    print(f"{kind}: {error}", flush=True)
    rounds = sum(seen.values()) + failed
    print(json.dumps({"rounds": rounds, "failed": failed, "seen": dict(sorted(seen.items()))}))
    return 1 if failed else 0


@cache
def stopped(folder: Path):
    """Stages that ran undisturbed, for kills and for full disks."""
    from stops import Stopped

    return Stopped(folder)


def player(kind: str, folder: Path):
    """What plays a round of a kind; whatever it needs is made first."""
    if kind in ("kill", "fill"):
        return getattr(stopped(folder / "stops"), kind)
    if kind == "damage":
        from damage import Damaged

        return Damaged(folder / "damage").round
    from network import Network

    return Network().round


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the server of S3 has threads that go on
