"""What the engine does on one GPU: one command, one table, under 8 minutes on an H200.

    python benchmarks/gpu.py            writes results/gpu.json
    python benchmarks/gpu.py --small    tiny sizes, on any machine, to try it out; writes nothing
    python benchmarks/gpu.py --only polar,topk

Random weights and activations: speed does not depend on what they say. Needs no model, no corpus,
no network and, beside jax with its accelerator, these packages: flax (with what it requires),
jaxtyping, numpy, rich, safetensors, scipy, tensorstore.

Every section runs once before the clock starts, unless it says "first"; shares are of the fastest
bfloat16 product that the same device did in the same run. After --budget seconds no section begins.
Results are written after each section, so that a run that is cut short leaves what it has.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # also where the package is not installed

from forward import LAYERS, LLAMA, random_decoder
from measure import RESULTS, gpu_peak, machine


@dataclass(frozen=True)
class Sizes:
    """Of the whole run, or of a trial."""

    peak: int = 8192
    lengths: tuple[int, ...] = (32, 64, 128)
    positions: int = 32_768
    ds: int = 14_336
    widths: tuple[int, ...] = (16_384, 65_536)
    rows: int = 4096
    polar: tuple[int, int] = (14_336, 16_384)
    svd: tuple[int, int] = (3584, 4096)
    eigh: tuple[int, ...] = (4096, 8192, 16_384)
    cholesky: int = 16_384
    prompts: int = 64
    new_tokens: int = 64
    texts: tuple[int, int, int] = (32, 64, 2304)
    stream: int = 16
    repeats: int = 5


SMALL = Sizes(
    peak=128,
    lengths=(16,),
    positions=64,
    ds=48,
    widths=(64, 96),
    rows=32,
    polar=(48, 64),
    svd=(24, 32),
    eigh=(32, 48),
    cholesky=48,
    prompts=2,
    new_tokens=4,
    texts=(2, 5, 24),
    stream=2,
    repeats=2,
)
SMALL_MODEL = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 512}


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    section: str
    what: str
    seconds: float
    rate: str = ""
    note: str = ""


class Bench:
    """The sections, on one device.

    Args:
        sizes: how large everything is.
        small: a narrow model.
    """

    def __init__(self, sizes: Sizes, small: bool) -> None:
        self.sizes, self.small = sizes, small
        self.verdicts: dict[str, dict[str, Any]] = {}
        self.config = LLAMA | (SMALL_MODEL if small else {})
        self.peak = gpu_peak(sizes.peak, 3 if small else 20)

    def clock(self, run: Callable[[], Any], repeats: int | None = None) -> float:
        """Median seconds after a run that does not count."""
        import jax

        jax.block_until_ready(run())
        times = []
        for _ in range(repeats or self.sizes.repeats):
            begun = time.perf_counter()
            jax.block_until_ready(run())
            times.append(time.perf_counter() - begun)
        return float(np.median(times))

    def rate(self, flops: float, seconds: float) -> str:
        return f"{flops / seconds / 1e12:.3g} TFLOP/s ({flops / seconds / self.peak:.1%} of peak)"

    def model(self) -> tuple[Any, Any, Any]:
        """An 8B shape with random weights in bfloat16; made once."""
        if not hasattr(self, "_model"):
            from atlas_jax.models import read_arch

            arch = read_arch(self.config)
            self._model = (arch, *random_decoder(arch, "bfloat16"))
        return self._model

    def capture(self) -> Iterator[Row]:
        """Five layers of an 8B model, max-pooled: the program that `capture` runs."""
        import jax
        import jax.numpy as jnp

        from atlas_jax.activations.pool import POOLS
        from atlas_jax.models import parse_site
        from atlas_jax.models.language_model import _read

        arch, graph, state = self.model()
        sites = tuple(parse_site(f"blocks.{layer}.mlp.hook_post", arch) for layer in LAYERS)
        attention = arch.d_model * arch.d_head * 2 * (arch.n_heads + arch.n_kv_heads)
        layer = 2 * (attention + 3 * arch.d_model * arch.d_mlp)
        for length in self.sizes.lengths:
            batch = self.sizes.positions // length
            tokens = jax.random.randint(jax.random.key(0), (batch, length), 0, arch.vocab_size)
            mask = jnp.ones((batch, length), bool)
            seconds = self.clock(
                lambda t=tokens, m=mask: _read(graph, state, t, m, sites, POOLS["max"])
            )
            per_token = layer + 4 * length * arch.n_heads * arch.d_head
            flops = (1 + sites[-1].layer) * batch * length * per_token
            speed = f"{batch * length / seconds:,.0f} tokens/s"
            yield Row("capture", f"{batch} x {length}", seconds, self.rate(flops, seconds), speed)

    def moments(self) -> Iterator[Row]:
        """A batch of rows into the sums of one site: the cross moment, and with unit rows."""
        import jax
        import jax.numpy as jnp

        from atlas_jax.translate.device_sums import DeviceSums
        from atlas_jax.translate.moments import Wanted

        ds, rows = self.sizes.ds, self.sizes.rows
        for width in self.sizes.widths:
            wide = jax.random.normal(jax.random.key(1), (rows, width), jnp.bfloat16)
            near = jax.random.normal(jax.random.key(2), (rows, ds), jnp.bfloat16)
            kinds = {
                "cross": (Wanted(cross=True), 1),
                "cross and unit rows": (Wanted(cross=True, unit=True), 2),
            }
            for name, (wanted, products) in kinds.items():
                sums = DeviceSums({"a": ds}, width, wanted, None, rows)
                sums._place = lambda x: jnp.asarray(x)  # the rows lie on the device

                def step(sums: Any = sums, wide: Any = wide, near: Any = near) -> Any:
                    sums.add({"a": near}, wide, 0, rows)
                    return sums.state

                seconds = self.clock(step)
                flops = 2.0 * products * rows * ds * width
                yield Row("moments", f"{ds} x {width}, {name}", seconds, self.rate(flops, seconds))
                del sums

    def polar(self) -> Iterator[Row]:
        """The polar factor of a random matrix, beside an SVD on the same device."""
        import jax
        import jax.numpy as jnp

        from atlas_jax.translate.polar import polar
        from atlas_jax.translate.polar_iteration import polar_express

        rng = np.random.default_rng(0)

        def matrix(shape: tuple[int, int]) -> np.ndarray:
            m, n = shape  # singular values that fall over three decades
            return rng.standard_normal((m, n)) * np.logspace(0, -3, m)[:, None]

        small = matrix(self.sizes.svd)
        placed = jnp.asarray(small, jnp.float32)

        @jax.jit
        def by_svd(x: Any) -> Any:
            u, _, vt = jnp.linalg.svd(x, full_matrices=False)
            return jnp.matmul(u, vt, precision="highest")

        seconds = self.clock(lambda: by_svd(placed), 2)
        name = "{} x {}".format(*self.sizes.svd)
        yield Row("polar", f"{name}, jnp SVD float32", seconds)
        reference = np.linalg.svd(small, full_matrices=False)
        exact = reference[0] @ reference[2]
        for precision in ("float32", "bf16x3"):
            run = lambda p=precision: polar_express(small, 3e-6, p)  # noqa: E731
            seconds = self.clock(run, 2)
            factor, residual = run()
            error = np.linalg.norm(factor - exact) / np.linalg.norm(exact)
            note = f"orthogonal to {residual:.1e}, error {error:.1e}"
            yield Row("polar", f"{name}, polar_express {precision}", seconds, "", note)
        large = matrix(self.sizes.polar)
        name = "{} x {}".format(*self.sizes.polar)
        for precision in ("float32", "bf16x3"):
            begun = time.perf_counter()
            found = polar(large, "polar_express", precision=precision)
            first = time.perf_counter() - begun
            begun = time.perf_counter()
            found = polar(large, "polar_express", precision=precision)
            seconds = time.perf_counter() - begun
            note = f"{found.method}, rank {found.rank}, orthogonal to {found.residual:.1e}; "
            note += f"goal 10 s and 1e-5; first {first:.1f} s; host to host, with the rank check"
            yield Row("polar", f"{name}, polar {precision}", seconds, "", note)

    def ridge(self) -> Iterator[Row]:
        """Float64 factors of a Gram matrix on the device, beside LAPACK on the host."""
        import jax
        import jax.numpy as jnp
        import scipy.linalg

        with jax.enable_x64(True):
            host = None
            for n in self.sizes.eigh:
                x = jax.random.normal(jax.random.key(3), (n, n), jnp.float32).astype(jnp.float64)
                gram = jnp.matmul(x, x.T, precision="highest")
                host = np.asarray(gram) if host is None else host
                seconds = self.clock(lambda g=gram: jnp.linalg.eigh(g), 1)
                yield Row("ridge", f"eigh float64, {n}", seconds, self.rate(9.0 * n**3, seconds))
            n = self.sizes.cholesky
            x = jax.random.normal(jax.random.key(4), (n, n), jnp.float32).astype(jnp.float64)
            gram = jnp.matmul(x, x.T, precision="highest") + n * jnp.eye(n, dtype=jnp.float64)
            solve = jax.jit(
                lambda g, b: jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(g), b)
            )
            seconds = self.clock(lambda: solve(gram, x), 2)
            flops = n**3 / 3 + 2.0 * n**3
            yield Row(
                "ridge", f"Cholesky and solve float64, {n}", seconds, self.rate(flops, seconds)
            )
        begun = time.perf_counter()
        scipy.linalg.eigh(host, driver="evd")
        seconds = time.perf_counter() - begun
        yield Row("ridge", f"LAPACK eigh on the host, {len(host)}", seconds, "", "once")

    def topk(self) -> Iterator[Row]:
        """The k texts that activate each feature most: a batch merged with what there is."""
        import jax
        import jax.numpy as jnp

        from atlas_jax.translate.device_sums import _add_top
        from atlas_jax.translate.semantic_lens import TopSamples

        rows, ds = self.sizes.rows, self.sizes.ds
        acts = jax.random.normal(jax.random.key(5), (rows, ds), jnp.float32)
        number = jnp.arange(rows, dtype=jnp.int32)
        for k in (20, 100):
            empty = TopSamples.empty(ds, min(k, rows))
            parts = (empty.values, empty.indices.astype(np.int32), empty.least)
            top = TopSamples(*(jnp.asarray(part)[None] for part in parts))  # type: ignore[arg-type]
            merge = jax.jit(_add_top)
            seconds = self.clock(lambda m=merge, t=top: m(t, acts, number))
            speed = f"{acts.nbytes / seconds / 1e9:,.0f} GB/s of activations read"
            yield Row("topk", f"{rows} rows of {ds}, k {k}", seconds, speed)

    def kernels(self) -> Iterator[Row]:
        """Each Pallas kernel beside the engine's jnp path: keep it, or delete it."""
        from beside_jnp import compare

        sizes = (self.sizes.texts, self.sizes.widths, self.sizes.rows, self.sizes.ds)
        for name, found in compare(*sizes, self.sizes.stream, self.clock, self.small):
            if isinstance(found, dict):
                self.verdicts[name] = found
            else:
                yield Row("kernels", f"{name}, {found[0]}", *found[1:])

    def generate(self) -> Iterator[Row]:
        """Steered generation, every text under its own edit."""
        import jax
        import jax.numpy as jnp
        from flax import nnx

        from atlas_jax.models import Edit, generate
        from atlas_jax.models.language_model import LanguageModel

        arch, graph, state = self.model()
        model = LanguageModel(nnx.merge(graph, state), _NoText(), "random", "random")  # type: ignore[arg-type]
        texts, new = self.sizes.prompts, self.sizes.new_tokens
        site = f"blocks.{arch.n_layers // 2}.mlp.hook_post"
        vectors = np.random.default_rng(0).standard_normal((texts, arch.d_mlp)).astype(np.float32)
        prompts = jax.random.normal(jax.random.key(6), (texts, 16, arch.d_model), jnp.bfloat16)
        for name, edits in (
            ("unsteered", []),
            ("steered", [[Edit(site, vector, 10.0)] for vector in vectors]),
        ):
            seconds = self.clock(
                lambda e=edits: generate(
                    model, (), e, new, inputs_embeds=prompts, batch_size=texts
                ),
                2,
            )
            speed = f"{texts * new / seconds:,.0f} tokens/s"
            yield Row("generate", f"{texts} texts, {new} tokens, {name}", seconds, speed)


class _NoText:
    """The tokenizer of a model that has no words."""

    pad_id, bos_id, eos_id = 0, 1, None

    def decode(self, ids: list[int]) -> str:
        return ""


SECTIONS = ("capture", "moments", "polar", "topk", "kernels", "generate", "ridge")


def main(arguments: argparse.Namespace) -> None:
    begun = time.perf_counter()
    wanted = arguments.only.split(",") if arguments.only else list(SECTIONS)
    unknown = [name for name in wanted if name not in SECTIONS]
    if unknown:
        raise SystemExit(f"Expected --only among {', '.join(SECTIONS)}, got {', '.join(unknown)}.")
    here = machine()
    bench = Bench(SMALL if arguments.small else Sizes(), arguments.small)
    rows: list[Row] = []
    missing: dict[str, str] = {}
    took: dict[str, float] = {}

    def save() -> None:
        if arguments.small:
            return
        result = {
            "benchmark": "gpu",
            "machine": here,
            "peak_tflops": round(bench.peak / 1e12, 1),
            "seconds": round(time.perf_counter() - begun, 1),
            "sections": took,
            "missing": missing,
            "kernels": bench.verdicts,
            "rows": [asdict(row) for row in rows],
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")

    for name in wanted:
        since = time.perf_counter() - begun
        if since > arguments.budget:
            missing[name] = f"not begun after {since:.0f} s"
            continue
        try:
            for row in getattr(bench, name)():
                rows.append(row)
                print(line(row), flush=True)
        except Exception as error:  # one that does not fit must not cost the others
            if arguments.small:
                raise
            missing[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        took[name] = round(time.perf_counter() - begun - since, 1)
        save()
    print(f"\npeak {bench.peak / 1e12:.4g} TFLOP/s in bfloat16, {here['devices'][0]}")
    print("| | what | seconds | rate | |\n|---|---|---|---|---|")
    for row in rows:
        print(line(row))
    for name, verdict in bench.verdicts.items():
        print(f"kernel {name}: {verdict}")
    for name, reason in missing.items():
        print(f"| {name} | missing | | | {reason} |")
    print(f"{time.perf_counter() - begun:.0f} s in all")


def line(row: Row) -> str:
    """A line of the table, in Markdown."""
    return f"| {row.section} | {row.what} | {row.seconds:.4g} | {row.rate} | {row.note} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes; writes nothing")
    parser.add_argument("--only", default="", help=f"some of {', '.join(SECTIONS)}")
    parser.add_argument("--budget", type=float, default=400, help="seconds; none begins after")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    main(parser.parse_args())
