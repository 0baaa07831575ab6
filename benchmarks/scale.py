"""What the paper's run takes: hours and bytes, from figures that are measured or marked as assumed.

    python benchmarks/scale.py            prints the tables of docs/scale.md
    python benchmarks/scale.py --write    puts them there

1 million sentences of 30.1 Llama tokens (the paper, appendix A.2); three models of Llama 3.1 8B's
shape with five layers of MLP neurons each; one atlas of 16,384 features on Gemma 2 2B's layer 20.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
TEXTS = 1_000_000
MODELS, LAYERS = 3, (3, 12, 19, 25, 30)
FEATURES, SAE_LAYER = 16_384, 20
BF16, F32 = 2, 4


@dataclass(frozen=True)
class Shape:
    """Of a decoder."""

    d: int
    mlp: int
    heads: int
    kv_heads: int
    head: int

    def flops(self, layers: int, length: float) -> float:
        """Of one token through so many layers, in a text of `length` tokens."""
        attention = 2 * self.d * self.head * (self.heads + self.kv_heads)
        scores = 2 * length * self.heads * self.head
        return 2 * layers * (attention + 3 * self.d * self.mlp + scores)


LLAMA = Shape(d=4096, mlp=14_336, heads=32, kv_heads=8, head=128)
GEMMA = Shape(d=2304, mlp=9_216, heads=8, kv_heads=4, head=256)


@dataclass(frozen=True)
class Factor:
    """A number, and where it comes from."""

    name: str
    value: float
    text: str
    source: str


def read(name: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def factors() -> dict[str, Factor]:
    """Everything that the projection rests on."""
    capture, store, gpu = read("capture"), read("store"), read("forward_gpu")
    plan = max(capture["plans"], key=lambda plan: (plan["texts"], plan["batch_tokens"]))
    sides = store["kinds"]["dense_bfloat16"]["sides"]
    write, cold = (sides[name]["mb_per_s"] for name in ("write", "cold_read"))
    ratio = store["kinds"]["sparse_16k_bfloat16"]["ratios"]["bytes"]
    if gpu:
        speed = max(bucket["tflops"] for bucket in gpu["buckets"].values())
        speed_source = "measured: forward_gpu.json, the best bucket"
    else:
        speed, speed_source = 400.0, "assumed: half of what the chip does on large products"
    found = {
        "tokens": Factor("tokens of a text", 30.1, "30.1", "the paper, appendix A.2"),
        "padding": Factor(
            "positions that are padding",
            plan["padding"],
            f"{plan['padding']:.1%}",
            f"measured: capture.json, {plan['texts']:,} texts, batches of "
            f"{plan['batch_tokens']:,} positions",
        ),
        "speed": Factor("forward pass, one H200", speed, f"{speed:.0f} TFLOP/s", speed_source),
        "spread": Factor(
            "eight devices instead of one",
            8,
            "8.0 times",
            "assumed: batches are independent; the eight read one host's texts and one disk",
        ),
        "storing": Factor(
            "storing over not storing",
            max(capture["cost_of_storing"], 0.0),
            f"{capture['cost_of_storing']:+.1%}",
            "measured: capture.json, SmolLM2 on the benchmark's machine",
        ),
        "write": Factor(
            "dense write", write, f"{write:,.0f} MB/s", "measured: store.json, its disk, with fsync"
        ),
        "cold": Factor("cold read", cold, f"{cold:,.0f} MB/s", "measured: store.json, its disk"),
        "sparse": Factor(
            "bytes of SAE rows, bfloat16",
            ratio,
            f"{ratio:.3f} of dense",
            "measured: store.json, 4.6 % of entries not zero",
        ),
        "fast": Factor("a server's NVMe disks", 3000, "3,000 MB/s", "assumed"),
    }
    return found


def projection(f: dict[str, Factor]) -> list[dict[str, Any]]:
    """Hours and bytes of each stage."""
    positions = TEXTS * f["tokens"].value / (1 - f["padding"].value)
    length = f["tokens"].value
    llama = positions * LLAMA.flops(1 + max(LAYERS), length)
    gemma = positions * (GEMMA.flops(1 + SAE_LAYER, length) + 2 * GEMMA.d * FEATURES)
    neurons = TEXTS * LLAMA.mlp * len(LAYERS) * BF16
    atlas = TEXTS * FEATURES * BF16
    stages = []
    for name, flops, dense, stored in [
        ("one subject, five layers", llama, neurons, neurons),
        (f"{MODELS} subjects", MODELS * llama, MODELS * neurons, MODELS * neurons),
        ("the atlas", gemma, atlas, atlas * f["sparse"].value),
    ]:
        forward = flops / (f["speed"].value * 1e12) / 3600
        disk = {key: dense / (f[key].value * 1e6) / 3600 for key in ("write", "fast")}
        stages.append(
            {
                "name": name,
                "forward": forward,
                "bytes": stored,
                "disk": disk,
                "needs": dense / (forward * 3600),
            }
        )
    return stages


def tables() -> str:
    """The tables of the page, as Markdown."""
    f = factors()
    spread, overhead = f["spread"].value, 1 + f["storing"].value
    lines = ["| factor | value | from |", "|---|---|---|"]
    lines += [f"| {x.name} | {x.text} | {x.source} |" for x in f.values()]
    lines += [
        "",
        "| capture of | forward, 1 H200 | with the store | forward, 8 devices | stored | to write "
        f"({f['write'].text} / {f['fast'].text}) | disk must take (1 / 8 devices) |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage in projection(f):
        one, eight = stage["forward"], stage["forward"] / spread
        slow, fast = (stage["disk"][key] for key in ("write", "fast"))
        stored = max(one * overhead, slow)
        lines.append(
            f"| {stage['name']} | {hours(one)} | {hours(stored)} | {hours(eight)} | "
            f"{stage['bytes'] / 1e9:,.1f} GB | {hours(slow)} / {hours(fast)} | "
            f"{stage['needs'] / 1e6:,.0f} / {spread * stage['needs'] / 1e6:,.0f} MB/s |"
        )
    neurons = TEXTS * LLAMA.mlp * BF16 / 1e6
    reading = neurons / f["cold"].value / 3600
    lines += [
        "",
        f"Reading one layer for a fit: {neurons / 1e3:.1f} GB, {hours(reading)} at the "
        f"measured {f['cold'].text}, {hours(neurons / f['fast'].value / 3600)} at the assumed "
        f"{f['fast'].text}.",
    ]
    return "\n".join(lines)


def scaling(found: dict[str, Any]) -> str:
    """The section on one and two processes, as Markdown; nothing if it was not measured."""
    if not found:
        return ""
    about = found["machine"]
    lines = [
        "## One process and two, measured",
        "",
        f"On {about['processor']}, a core for each process; medians of "
        f"{len(found['tasks'][0]['sides']['one']['seconds'])} runs in turn, in brackets the range "
        "of the rounds. Strong: two processes share the rows of one, 100% is half the time. Weak: "
        "each has as many as one alone, 100% is the same time. Beside: two processes that know "
        "nothing of each other each do the work of one, which is what the cores lose to each other "
        "by themselves. `python benchmarks/scaling.py` measures it.",
        "",
        "| | rows of one | one | strong | efficiency | weak | efficiency | beside |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in found["tasks"]:
        seconds = {side: f"{by['median_s']:.2f} s" for side, by in task["sides"].items()}
        share = {
            side: f"{by['median']:.0%} ({by['least']:.0%} to {by['most']:.0%})"
            for side, by in task["efficiency"].items()
        }
        lines.append(
            f"| {task['task']} | {task['rows']['one']:,} | {seconds['one']} | {seconds['strong']} "
            f"| {share['strong']} | {seconds['weak']} | {share['weak']} | {share['beside']} |"
        )
    shape = found["shape"]
    lines += [
        "",
        f"Capture: {shape['model']['num_hidden_layers']} layers of width "
        f"{shape['model']['hidden_size']}, into one store. Moments: the sums of covariance, "
        f"{shape['subject']:,} by {shape['atlas']:,}. Procrustes and ridge: their sums, and the "
        "solving, which every process does whole.",
    ]
    return "\n".join(lines)


def hours(value: float) -> str:
    """A time in words."""
    return f"{value:.1f} h" if value >= 1 else f"{60 * value:.1f} min"


def page(text: str) -> str:
    """The page with the tables between its markers."""
    for name, end, inner in (
        ("tables", "end", tables()),
        ("scaling", "end of scaling", scaling(read("scaling"))),
    ):
        head, begin, rest = text.partition(f"<!-- {name} -->")
        _, end, tail = rest.partition(f"<!-- {end} -->")
        inner = f"\n\n{inner}\n\n" if inner else "\n"
        text = f"{head}{begin}{inner}{end}{tail}"
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/scale.md")
    if parser.parse_args().write:
        PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
    else:
        print(tables())
