"""One process of a pod: captures two tiny models into one place and fits translations from there.

JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0 JAX_COORDINATOR_ADDRESS=... python process.py OUT [seconds]

OUT: a folder or s3://..., with `maps.npz` in the folder that the variable MAPS names; `seconds` are
slept for each batch, so that there is time to be killed.
"""

import os
import runpy
import sys
import time
from pathlib import Path

import numpy as np
import typer

from atlas_jax.activations import capture
from atlas_jax.cli.console import reports_errors
from atlas_jax.corpus import Texts
from atlas_jax.parallel import barrier, leads, start_processes, sums_mesh
from atlas_jax.translate import fit

CONFTEST = Path(__file__).parents[1] / "activations" / "conftest.py"
METHODS = ("covariance", "correlation", "ridge", "procrustes", "semantic_lens")
RNG = np.random.default_rng(3)
TEXTS = Texts([" ".join(f"w{i}" for i in RNG.integers(0, 99, n)) for n in RNG.integers(2, 40, 600)])


def sources():
    """A subject with a dense site of 6 and a sparse one of 9 features, and an atlas of 12."""
    table = runpy.run_path(str(CONFTEST))["TableSource"]
    atlas = table(seed=1, widths=(2, 12))
    atlas.sites = ("blocks.1.b",)
    atlas.name = "atlas"
    return table(), atlas


def record(out, pause=0.0):
    """The stores of both."""
    stores = []
    for name, source in zip(("subject", "atlas"), sources(), strict=True):
        read = source.read

        def slowly(*arguments, read=read):
            time.sleep(pause)
            return read(*arguments)

        source.read = slowly
        place = f"{out}/{name}"
        stores.append(capture(source, TEXTS, out=place, rows_per_part=32, batch_tokens=256))
    return stores


def translate(subject, atlas, **how):
    """{site: {method: T}}."""
    sides = {site: subject[site] for site in subject.sites}
    found = fit(sides, atlas, METHODS, batch_rows=100, **how)
    return {f"{s} {m}": t.matrix for s, by in found.items() for m, t in by.items()}


@reports_errors
def main():
    start_processes()
    stores = record(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
    folder = Path(os.environ["MAPS"])
    maps = translate(*stores, mesh=sums_mesh(), moments=folder / "moments", save_every=0.0)
    if leads():
        np.savez(folder / "maps.npz", **maps)
    barrier("end")


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as end:
        sys.exit(end.exit_code)
