"""AUROC and average precision of many columns, against a loop over scikit-learn.

Half of the columns have many exact ties. Both sides give both values of every column; how far they
are apart is in the result.

    python benchmarks/ranking.py --samples 200000 --features 100
"""

from __future__ import annotations

import statistics
from typing import Any

import measure


def columns(samples: int, features: int) -> tuple[Any, Any]:
    """Scores that say something about labels of which 0.5 to 20 % are positive."""
    import numpy as np

    rng = np.random.default_rng(0)
    labels = rng.random((samples, features)) < np.geomspace(0.005, 0.2, features)
    scores = rng.standard_normal((samples, features), np.float32) + labels
    scores[:, ::2] = np.round(scores[:, ::2], 2)  # a few hundred distinct values
    return scores, labels


def main() -> None:
    parser = measure.options(__doc__ or "", "ranking")
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--features", type=int, default=100)
    parser.add_argument("--device", action="store_true", help="also the jitted path")
    options = parser.parse_args()
    cores = measure.use_threads(options.threads)

    import numpy as np
    from sklearn.metrics import average_precision_score, roc_auc_score

    from atlas_jax.evaluate.ranking import ranking_quality

    scores, labels = columns(options.samples, options.features)

    def loop() -> Any:
        pairs = [(labels[:, j], scores[:, j]) for j in range(options.features)]
        return np.array(
            [
                [roc_auc_score(y, s) for y, s in pairs],
                [average_precision_score(y, s) for y, s in pairs],
            ]
        )

    sides = {
        "scikit-learn": loop,
        "atlas-jax": lambda: np.stack(ranking_quality(scores, labels)),
    }
    if options.device:
        sides["atlas-jax, jitted"] = lambda: np.stack(ranking_quality(scores, labels, "device"))
    found = {name: side() for name, side in sides.items()}
    seconds = measure.in_turn(sides, options.repeats)
    expected = found["scikit-learn"]
    work = dict.fromkeys(sides, float(options.features))
    peer = statistics.median(seconds["scikit-learn"])
    result = {
        "machine": measure.machine(),
        "cores": cores,
        "samples": options.samples,
        "features": options.features,
        "sides": measure.rates(seconds, work, "columns"),
        "times_as_fast": {
            name: round(peer / statistics.median(times), 2) for name, times in seconds.items()
        },
        "largest_difference": {
            name: float(np.abs(values - expected).max()) for name, values in found.items()
        },
    }
    print(result["times_as_fast"], result["largest_difference"])
    measure.save(options.out, result)


if __name__ == "__main__":
    main()
