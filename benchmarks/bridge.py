"""The bridge's solution against scikit-learn's RidgeCV on the same rows, and at full size.

python benchmarks/bridge.py                  20,000 pairs, d 1024, 15 penalties, GCV on both sides
python benchmarks/bridge.py --full           also 3584 -> 5376: solution, five folds, memory
python benchmarks/bridge.py --pairs 2000 --width 128 --repeats 1     a quick look
"""

from __future__ import annotations

import resource
import time

from measure import machine, options, rates, save, use_threads


def main() -> None:
    parser = options(__doc__ or "", "bridge")
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--full", action="store_true", help="3584 -> 5376 as well")
    args = parser.parse_args()
    use_threads(args.threads)

    import numpy as np
    from measure import in_turn
    from sklearn.linear_model import RidgeCV

    from atlas_jax.verbalize import Ridge, solve_bridge
    from atlas_jax.verbalize.bridge_moments import PairSums

    rng = np.random.default_rng(0)
    n, d = args.pairs, args.width
    spread = np.exp(-3 * np.arange(d) / d)
    x = (rng.standard_normal((n, d)) @ np.linalg.qr(rng.standard_normal((d, d)))[0]) * spread
    y = x @ rng.standard_normal((d, d)) / np.sqrt(d) + 0.5 * rng.standard_normal((n, d))
    documents = 10 + rng.integers(0, 10, n)
    ridge = Ridge(choose="gcv")
    found = {}

    def ours() -> None:
        sums = PairSums(5, 0)
        for start in range(0, n, 4096):
            part = slice(start, start + 4096)
            sums.add(x[part], y[part], documents[part])
        found["bridge"] = solve_bridge(sums.moments({}), ridge)

    def theirs() -> None:
        z, t = (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / y.std(0)
        found["sklearn"] = RidgeCV(alphas=[tau * n for tau in ridge.taus]).fit(z, t)

    seconds = in_turn({"bridge": ours, "sklearn": theirs}, args.repeats)
    bridge, peer = found["bridge"], found["sklearn"]
    mine = bridge.matrix * x.std(0) / y.std(0)[:, None]
    result = {
        "machine": machine(),
        "pairs": n,
        "width": d,
        "sides": rates(seconds, dict.fromkeys(seconds, n), "pairs"),
        "same_penalty": bool(np.isclose(bridge.meta["lambda"], peer.alpha_)),
        "largest_difference": float(abs(mine - peer.coef_).max() / abs(peer.coef_).max()),
    }
    result["times_faster"] = round(
        result["sides"]["sklearn"]["median_s"] / result["sides"]["bridge"]["median_s"], 2
    )
    print(
        f"{result['times_faster']}x, largest difference {result['largest_difference']:.1e}, "
        f"same penalty: {result['same_penalty']}"
    )
    del x, y, found, bridge, peer, mine
    if args.full:
        result["full"] = full_size()
    save(args.out, result)


def full_size(p: int = 3584, q: int = 5376, pairs: int = 12_000) -> dict[str, float]:
    """Qwen 2.5 7B to Gemma 3 27B: seconds of the sums and of the solution with five folds."""
    import numpy as np

    from atlas_jax.verbalize import Ridge, solve_bridge
    from atlas_jax.verbalize.bridge_moments import PairSums

    rng = np.random.default_rng(0)
    sums, start = PairSums(5, 0), time.perf_counter()
    mixing = rng.standard_normal((64, p), np.float32), rng.standard_normal((64, q), np.float32)
    for _ in range(pairs // 2000):
        latent = rng.standard_normal((2000, 64), np.float32)
        rows = [latent @ m + rng.standard_normal((2000, m.shape[1]), np.float32) for m in mixing]
        sums.add(rows[0], rows[1], 10 + rng.integers(0, 10, 2000))
    moments = sums.moments({})
    del sums
    summed = time.perf_counter() - start
    start = time.perf_counter()
    bridge = solve_bridge(moments, Ridge())
    solved = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{p} -> {q}: sums {summed:.0f} s, solution {solved:.0f} s, peak {peak:.1f} GiB")
    return {
        "source_width": p,
        "target_width": q,
        "pairs": moments.n,
        "sums_s": round(summed, 1),
        "solution_s": round(solved, 1),
        "peak_gib": round(peak, 2),
        "tau": bridge.meta["tau"],
    }


if __name__ == "__main__":
    main()
