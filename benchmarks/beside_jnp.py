"""Each Pallas kernel beside the jnp path that it would replace: a section of `gpu.py`.

A kernel is kept where it gains enough in the worst of the sizes, and gives what jnp gives. What is
kept goes into `GAINS` of `kernels/choice.py`; what is not, its file goes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

Case = tuple[str, Callable[..., Any], tuple[Any, ...]]


def compare(
    texts: tuple[int, int, int],
    widths: tuple[int, ...],
    n: int,
    ds: int,
    stream: int,
    clock: Callable[[Callable[[], Any]], float],
    small: bool,
) -> Iterator[tuple[str, tuple[str, float, str, str] | dict[str, Any]]]:
    """Lines (what, seconds, rate, note) of each kernel, then its verdict.

    Args:
        texts: how many, their tokens, the width of the site that is encoded.
        widths: numbers of features.
        n: rows of a batch.
        ds: features whose top rows are kept.
        stream: batches of those.
        clock: gives median seconds.
        small: a trial, where kernels are interpreted: nothing is claimed.
    """
    from atlas_jax.kernels.choice import LEAST_MEMORY, LEAST_TIME, Gain

    rule = f"keep where jnp takes {LEAST_TIME}x the time or {LEAST_MEMORY}x the memory, at worst"
    for name, cases in _cases(texts, widths, n, ds, stream).items():
        gains, apart = [], 0.0
        try:
            for what, program, arguments in cases:
                seconds, gain, error, note = _both(program, arguments, clock)
                gains.append(gain)
                apart = max(apart, error) if error == error else float("inf")
                rate = "interpreted" if small else f"{gain.time:.2f}x jnp"
                yield name, (what, seconds, rate, note)
        except Exception as error:  # a kernel that does not compile is a finding
            if small:
                raise
            reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            yield name, {"verdict": "delete", "why": reason}
            continue
        worst = Gain(min(g.time for g in gains), min(g.memory for g in gains))
        keep = worst.enough and apart < 1e-5
        yield (
            name,
            {
                "time": None if small else round(worst.time, 2),
                "memory": None if small else round(worst.memory, 2),
                "apart": apart,
                "verdict": "none: interpreted" if small else "keep" if keep else "delete",
                "why": rule,
            },
        )


def _cases(
    texts: tuple[int, int, int], widths: tuple[int, ...], n: int, ds: int, stream: int
) -> dict[str, list[Case]]:
    """What runs, on which arguments; the path is chosen where it is traced."""
    import jax
    import jax.numpy as jnp

    from atlas_jax.activations.pool import pool_max
    from atlas_jax.atlas.pooled import encode_pooled
    from atlas_jax.atlas.sae import SAE
    from atlas_jax.kernels import gram, top_rows

    def normal(seed: int, *shape: int) -> Any:
        return jax.random.normal(jax.random.key(seed), shape, jnp.float32)

    b, t, d = texts
    cases: dict[str, list[Case]] = {"encode_max": [], "gram": [], "top_rows": []}
    x, mask = normal(7, b, t, d), jnp.ones((b, t), bool)
    for width in widths:

        def encode(w: Any, x: Any, width: int = width) -> Any:
            decoder, theta = jnp.zeros((width, 0)), jnp.full(width, 2.0)  # the first of no use here
            sae = SAE(w, jnp.zeros(width), decoder, jnp.zeros(d), theta, "jumprelu")
            return encode_pooled(sae, x, mask, mask, pool_max)

        w = normal(8, d, width) / d**0.5
        cases["encode_max"].append((f"{b} x {t} x {d} to {width}", encode, (w, x)))
        cases["gram"].append((f"{n} rows of {width}", gram, (normal(9, n, width),)))
    rows = tuple(normal(10 + i, n, ds) for i in range(stream))
    for k in (20, 100):

        def top(*rows: Any, k: int = k) -> Any:
            held = (jnp.full((ds, k), -jnp.inf), jnp.full((ds, k), -1, jnp.int32))
            for i, acts in enumerate(rows):
                held = top_rows(*held, acts, i * n + jnp.arange(n, dtype=jnp.int32))
            return held

        cases["top_rows"].append((f"{stream} times {n} rows of {ds}, k {k}", top, rows))
    return cases


def _both(
    program: Callable[..., Any],
    arguments: tuple[Any, ...],
    clock: Callable[[Callable[[], Any]], float],
) -> tuple[float, Any, float, str]:
    """The kernel's seconds, its gain, how far both are apart, and a note."""
    import jax
    import jax.numpy as jnp

    from atlas_jax.kernels.choice import VARIABLE, Gain

    seconds, size, outputs = {}, {}, {}
    before = os.environ.get(VARIABLE)
    try:
        for path in ("off", "on"):
            os.environ[VARIABLE] = path
            # A function of its own, or jit would give the other path's program.
            compiled = jax.jit(lambda *a: program(*a)).lower(*arguments).compile()
            memory = compiled.memory_analysis()
            size[path] = memory.temp_size_in_bytes + memory.output_size_in_bytes
            seconds[path] = clock(lambda c=compiled: c(*arguments))
            outputs[path] = jax.tree.leaves(compiled(*arguments))
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before

    def apart(a: Any, b: Any) -> float:
        finite = jnp.max(jnp.where(jnp.isfinite(b), jnp.abs(b), 1))
        return float(jnp.max(jnp.where(a == b, 0, jnp.abs(a - b))) / finite)

    error = max(map(apart, outputs["on"], outputs["off"]))
    note = (
        f"jnp {seconds['off']:.4g} s; {size['on'] / 1e6:.4g} MB, jnp {size['off'] / 1e6:.4g} MB; "
    )
    note += f"apart by {error:.1e}"
    gain = Gain(seconds["off"] / seconds["on"], size["off"] / size["on"])
    return seconds["on"], gain, error, note
