"""`atlas-jax run RECIPE --dry-run`: what the stages take, and what is missing."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import typer

from atlas_jax.cli.console import Terminal
from atlas_jax.pipeline.access import MISSING, Access
from atlas_jax.pipeline.plan import Cost, plan
from atlas_jax.pipeline.recipe import Recipe


def show_plan(recipe: Recipe, access: Sequence[Access], rate: float | None, as_json: bool) -> None:
    """Prints the cost of every stage of an experiment and everything that must be read."""
    show_costs(plan(recipe), recipe.subject.dtype, access, rate, as_json)


def show_costs(
    costs: Sequence[Cost],
    dtype: str,
    access: Sequence[Access],
    rate: float | None,
    as_json: bool,
) -> None:
    """Prints the cost of every stage and everything that must be read."""
    said = "as given" if rate else "measured here with one product"
    rate = rate or measured_rate(dtype)
    if as_json:
        rows = [asdict(cost) | {"hours": cost.hours(rate)} for cost in costs]
        result = {"rate": rate, "stages": rows, "access": [asdict(one) for one in access]}
        typer.echo(json.dumps(result, indent=1))
        return
    terminal = Terminal()
    whole = Cost("all", "", *(sum(getattr(c, f) for c in costs) for f in _FIELDS))
    rows = [_row(cost, rate) for cost in (*costs, whole)]
    terminal.table(["stage", "what", "FLOPs", "hours", "disk", "download", "judge"], rows)
    terminal.line(f"hours at {rate:.2g} FLOP/s ({said}); --rate says another")
    for one in access:
        reason = f": {one.reason}" if one.reason else ""
        terminal.line(f"{one.state:<18} {one.what} {one.name}{reason}")
    missing = sum(one.state == MISSING for one in access)
    terminal.line(f"{missing} of {len(access)} missing" if missing else "nothing is missing")


_FIELDS = ("flops", "stored", "download", "calls")


def _row(cost: Cost, rate: float) -> list[str]:
    return [
        cost.stage,
        cost.what,
        f"{cost.flops:.1e}" if cost.flops else "-",
        f"{cost.hours(rate):.2g}" if cost.flops else "-",
        _bytes(cost.stored),
        _bytes(cost.download),
        f"{cost.calls:,}" if cost.calls else "-",
    ]


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return "-"


def measured_rate(dtype: str, size: int = 2048) -> float:
    """FLOP/s of a square matrix product on all devices, times one half for everything else."""
    import jax
    import jax.numpy as jnp

    kind: Any = (
        jnp.bfloat16 if dtype == "bfloat16" and jax.default_backend() != "cpu" else "float32"
    )
    a = jnp.ones((size, size), kind)
    product = jax.jit(lambda x: x @ x)
    product(a).block_until_ready()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 0.5:
        product(a).block_until_ready()
        count += 1
    return 0.5 * jax.device_count() * count * 2.0 * size**3 / (time.perf_counter() - start)
