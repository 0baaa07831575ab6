"""Trains a small activation verbalizer where no released one fits, and measures what it says.

    python benchmarks/train_verbalizer.py                    SmolLM2 135M, what blocks.12 holds
    python benchmarks/train_verbalizer.py --steps 8 --texts 300 --batch 8 --said 12   a quick look

It learns to say the words that set a text apart, from the state at one of its tokens. Of states of
held-out documents: the cosine of what it says with their own words, less that with others' words
(`lift_spec`), retrieval among them, and the same for states given to it in a wrong order. A run
that was stopped goes on with the same command.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from measure import machine, options, save, use_threads
from passages import passages


def main() -> None:
    parser = options(__doc__ or "", "train_verbalizer")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--site", default="blocks.12.hook_resid_post")
    parser.add_argument("--texts", type=int, default=6000, help="passages of about 130 tokens")
    parser.add_argument("--per-text", type=int, default=5)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--mode", default="replace_residual")
    parser.add_argument("--said", type=int, default=200, help="held-out states to explain")
    parser.add_argument("--folder", type=Path, default=Path("runs/verbalizer"))
    args = parser.parse_args()
    use_threads(args.threads)

    import atlas_jax as aj
    from atlas_jax.verbalize import load_verbalizer
    from atlas_jax.verbalize.training import Drawing, TrainingPlan, train_verbalizer

    plan = TrainingPlan(
        drawing=Drawing(per_text=args.per_text),
        mode=args.mode, rank=args.rank, steps=args.steps, batch=args.batch, rate=args.rate,
    )  # fmt: skip
    began = time.perf_counter()
    model = aj.load_model(args.model)
    fitted, _ = passages(560)
    texts = fitted[: args.texts]
    print(f"{len(texts)} passages after {time.perf_counter() - began:.0f} s", flush=True)
    train_verbalizer(
        model, args.site, texts, args.folder, plan, checkpoint_steps=50,
        report=lambda line: print(line, flush=True),
    )  # fmt: skip
    trained = time.perf_counter() - began
    verbalizer = load_verbalizer(args.folder)
    result: dict[str, Any] = {
        "machine": machine(),
        "texts": len(texts),
        "seconds_of_this_run": round(trained),
        "losses": json.loads((args.folder / "training.json").read_text())["losses"],
        "background": verbalizer.background.about() if verbalizer.background else None,
        **held_out(model, args, texts, plan, verbalizer),
    }
    print(json.dumps({k: result[k] for k in ("lift_spec", "shuffled", "top1", "quirks")}, indent=1))
    save(args.out, result)


def held_out(model: Any, args: Any, texts: Any, plan: Any, verbalizer: Any) -> dict[str, Any]:
    """What it says of states of documents that training did not see."""
    import numpy as np

    from atlas_jax.atlas.embed import SentenceEmbedder
    from atlas_jax.verbalize.lift import bootstrap_lift, permutation_test, retrieval, similarity
    from atlas_jax.verbalize.quirks import genericness, quirk_rates
    from atlas_jax.verbalize.said import embed_said
    from atlas_jax.verbalize.training import WordTable
    from atlas_jax.verbalize.training.examples import record_examples

    table = WordTable.of(texts, plan.drawing.least, plan.drawing.most)
    folder = args.folder / "examples"
    found = record_examples(model, args.site, texts, folder, plan.drawing, table).part(held=True)
    chosen = np.random.default_rng(0).permutation(len(found))[: args.said]
    words = [found.answers[i] for i in chosen]
    embedder = SentenceEmbedder()
    own = embedder.embed(words)
    said = verbalizer.explain_all(found.rows[chosen])
    embedded = embed_said(embedder, said)
    s = similarity(embedded, own[None])
    other = s[:, np.roll(np.arange(len(s)), 1)]
    top, reciprocal = retrieval(s)
    return {
        "states": len(chosen),
        "lift_spec": bootstrap_lift(s)._asdict(),
        "shuffled": bootstrap_lift(other)._asdict(),
        "permutation": permutation_test(s)._asdict(),
        "own_cosine": float(np.diag(s).mean()),
        "top1": float(top.mean()),
        "mrr": float(reciprocal.mean()),
        "chance": 1 / len(s),
        "quirks": quirk_rates([row[0] for row in said]) | {"genericness": genericness(embedded[0])},
        "examples": [
            {"words": w, "said": row[0].text} for w, row in zip(words[:25], said, strict=False)
        ],
    }


if __name__ == "__main__":
    main()
