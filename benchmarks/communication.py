"""Bytes that a step sends between devices, counted in the compiled programs, for 8 and 256 devices.

    python benchmarks/communication.py           compiles and writes results/communication.json
    python benchmarks/communication.py --write   puts the tables into docs/scale.md

Nothing large is made: the programs that capture and fit run are compiled for pretended devices from
the shapes of their arguments alone. A subject of Llama 3.1 8B's shape is read at five layers of
14,336 neurons; the atlas has 16,384 or 65,536 features on Gemma 2 2B's layer 20.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from collectives import collectives
from measure import RESULTS
from scale import GEMMA, LAYERS, LLAMA, PAGE, SAE_LAYER, factors, hours

OUT = RESULTS / "communication.json"
DEVICES, HOST = (8, 256), 8
WIDTHS = (16_384, 65_536)
SEQUENCES = (500_000, 50_000_000)
LENGTH, TEXTS = 32, 256
"""Of a step of capture: positions of a text, and texts for each part of the axis `data`."""
ROWS = 512
"""Of a step of the sums, for each part of the axis `data`."""
SUBJECT = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": LLAMA.d,
    "intermediate_size": LLAMA.mlp,
    "num_hidden_layers": 32,
    "num_attention_heads": LLAMA.heads,
    "num_key_value_heads": LLAMA.kv_heads,
}
READER = {
    "model_type": "gemma2",
    "vocab_size": 256_000,
    "hidden_size": GEMMA.d,
    "intermediate_size": GEMMA.mlp,
    "num_hidden_layers": 26,
    "num_attention_heads": GEMMA.heads,
    "num_key_value_heads": GEMMA.kv_heads,
    "head_dim": GEMMA.head,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}
WITHIN, ACROSS = 450e9, 50e9
"""Bytes a second that a device sends within its host and to another (assumed)."""
FORWARD, SUMS = 400e12, 50e12
"""FLOP/s of bfloat16 forward passes and of float32 sums (assumed)."""


def count(devices: int, small: bool = False) -> list[dict[str, Any]]:
    """Compiles every program for so many devices; what each sends."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    programs = Programs(devices, small)
    found = []
    for model in (1, HOST):
        found.append(programs.subject(model))
        for width in programs.widths:
            found.append(programs.atlas(model, width))
    for width in programs.widths:
        found += [programs.update(width), programs.finish(width), programs.polar(width)]
    return found


class Programs:
    """Compiles what capture and fit run, from shapes.

    Args:
        devices: how many are pretended.
        small: narrow models, to try it out.
    """

    def __init__(self, devices: int, small: bool) -> None:
        shrink = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 512} if small else {}
        self.devices, self.shrink = devices, shrink
        self.widths = (128, 256) if small else WIDTHS
        self.neurons = 128 if small else LLAMA.mlp

    def mesh(self, model: int) -> Any:
        from atlas_jax.parallel import make_mesh

        return make_mesh(self.devices // model, model)

    def record(self, name: str, mesh: Any, compiled: Any, **more: Any) -> dict[str, Any]:
        memory = compiled.memory_analysis()
        found = collectives(compiled.as_text(), self.devices)
        kinds: dict[str, float] = {}
        for c in found:
            key = f"{c.kind} over {c.group}"
            kinds[key] = kinds.get(key, 0) + c.sent * c.times
        result = {
            "program": name,
            "devices": self.devices,
            "mesh": [mesh.shape["data"], mesh.shape["model"]],
            **more,
            "operations": sum(c.times for c in found),
            "sent": kinds,
            "arguments": memory.argument_size_in_bytes,
            "temporary": memory.temp_size_in_bytes,
        }
        print(json.dumps(result), flush=True)
        return result

    def decoder(self, config: dict[str, Any], mesh: Any) -> tuple[Any, Any, Any]:
        """The shape of a model in bfloat16, laid out on a mesh."""
        import jax
        import jax.numpy as jnp
        from flax import nnx

        from atlas_jax.models import read_arch
        from atlas_jax.models.decoder import Decoder
        from atlas_jax.models.placement import placement

        arch = read_arch(config | self.shrink)
        graph, state = nnx.split(nnx.eval_shape(lambda: Decoder(arch, jnp.dtype("bfloat16"))))
        flat = []
        for path, leaf in nnx.to_flat_state(state):
            where = placement(".".join(map(str, path)), arch, mesh)
            shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
            flat.append((path, leaf.replace(shape)))
        return arch, graph, nnx.from_flat_state(flat)

    def batch(self, mesh: Any) -> tuple[Any, Any]:
        shape = (TEXTS * mesh.shape["data"], LENGTH)
        return _struct(shape, "int32", mesh, "data"), _struct(shape, "bool", mesh, "data")

    def subject(self, model: int) -> dict[str, Any]:
        from atlas_jax.activations.pool import POOLS
        from atlas_jax.models import parse_site
        from atlas_jax.models.language_model import _read

        mesh = self.mesh(model)
        arch, graph, state = self.decoder(SUBJECT, mesh)
        sites = tuple(parse_site(f"blocks.{layer}.mlp.hook_post", arch) for layer in LAYERS)
        lowered = _read.lower(graph, state, *self.batch(mesh), sites, POOLS["max"])
        return self.record("capture of the subject", mesh, lowered.compile())

    def atlas(self, model: int, width: int) -> dict[str, Any]:
        import jax.numpy as jnp

        from atlas_jax.activations.pool import POOLS
        from atlas_jax.atlas import SAE
        from atlas_jax.atlas.atlas import _read
        from atlas_jax.atlas.pooled import FEATURES, features_apart

        mesh = self.mesh(model)
        arch, graph, state = self.decoder(READER, mesh)
        d = arch.d_model
        shapes = {"W_enc": (d, width), "b_enc": (width,), "W_dec": (width, d), "b_dec": (d,)}
        shapes |= {"threshold": (width,)}
        spec = FEATURES if model > 1 else dict.fromkeys(FEATURES, ())
        parts = {k: _struct(v, "float32", mesh, *spec[k]) for k, v in shapes.items()}
        sae = SAE(**parts, architecture="jumprelu")
        split = mesh if features_apart(sae, mesh) else None
        site = f"blocks.{SAE_LAYER}.hook_resid_post"
        limit = jnp.float32(1e4)
        lowered = _read.lower(
            graph, state, sae, *self.batch(mesh), site, POOLS["max"], limit, split
        )
        return self.record("capture of the atlas", mesh, lowered.compile(), width=width)

    def sums(self, width: int) -> tuple[Any, Any, Any, Any]:
        """The sums of all methods, their state's shape, and the mesh."""
        import jax

        from atlas_jax.translate.device_sums import DeviceSums
        from atlas_jax.translate.moments import Wanted

        mesh = self.mesh(HOST)
        wanted = Wanted(cross=True, unit=True, gram="float32", top=20)
        sites = {f"site{i}": self.neurons for i in range(len(LAYERS))}
        sums = DeviceSums(sites, width, wanted, None, ROWS * mesh.shape["data"], mesh)
        with jax.enable_x64(True):
            state = jax.eval_shape(sums._empty)
            laid = jax.tree.map(
                lambda x: _struct(
                    x.shape,
                    x.dtype,
                    mesh,
                    *(("data", "model") if x.ndim == 3 and x.dtype == "float64" else ("data",)),
                ),
                state,
            )
        return sums, laid, mesh, wanted

    def update(self, width: int) -> dict[str, Any]:
        import jax

        from atlas_jax.translate.device_sums import _update

        sums, state, mesh, wanted = self.sums(width)
        rows = sums.batch_rows
        acts = {s: _struct((rows, d), "float32", mesh, "data") for s, d in sums.widths.items()}
        atlas = _struct((rows, width), "float32", mesh, "data")
        shifts = {
            "atlas": _struct((width,), "float32", mesh),
            "sites": {s: _struct((d,), "float32", mesh) for s, d in sums.widths.items()},
        }
        with jax.enable_x64(True):
            lowered = _update.lower(
                state,
                acts,
                atlas,
                _struct((rows,), "int32", mesh, "data"),
                shifts,
                mesh=mesh,
                columns=(0, width),
                wanted=wanted,
            )
            return self.record("a step of the sums", mesh, lowered.compile(), width=width)

    def finish(self, width: int) -> dict[str, Any]:
        import jax

        from atlas_jax.translate.device_sums import _added

        _, state, mesh, _ = self.sums(width)
        with jax.enable_x64(True):
            compiled = _added.lower(state, mesh).compile()
        return self.record("adding the sums, once", mesh, compiled, width=width)

    def polar(self, width: int) -> dict[str, Any]:
        from jax.sharding import NamedSharding, PartitionSpec

        from atlas_jax.translate.polar_iteration import _iterate, coefficients

        mesh = self.mesh(HOST)
        short, long = sorted((self.neurons, width))
        x = _struct((short, long), "float32", mesh, None, "model")
        split = NamedSharding(mesh, PartitionSpec(None, "model"))
        steps = coefficients(3e-6 / short**0.125)
        compiled = _iterate.lower(x, steps, "float32", split).compile()
        return self.record(
            "polar factor, each site", mesh, compiled, width=width, iterations=len(steps)
        )


def _struct(shape: tuple[int, ...], dtype: Any, mesh: Any, *spec: Any) -> Any:
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))


def tables(found: list[dict[str, Any]]) -> str:
    """The tables of the page, as Markdown."""
    lines = [
        "| program | devices (data x model) | atlas | operations | a device sends | over | "
        "it holds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        data, model = row["mesh"]
        width = f"{row['width']:,}" if "width" in row else ""
        kinds = ", ".join(row["sent"]) or "nothing"
        held = row["arguments"] + row["temporary"]
        lines.append(
            f"| {row['program']} | {row['devices']} ({data} x {model}) | {width} | "
            f"{row['operations']} | {size(sum(row['sent'].values()))} | {kinds} | {size(held)} |"
        )
    lines += [
        "",
        "| devices | weights over | atlas | sequences | forward passes | sums | sending: passes / "
        "sums / five polar factors | share of sending |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for devices in DEVICES:
        for model in (1, HOST):
            for width in WIDTHS:
                for sequences in SEQUENCES:
                    lines.append(_projection(found, devices, model, width, sequences))
    return "\n".join(lines)


def _projection(
    found: list[dict[str, Any]], devices: int, model: int, width: int, sequences: int
) -> str:
    f = factors()
    texts = TEXTS * devices // model
    tokens = f["tokens"].value
    positions = sequences * tokens / (1 - f["padding"].value)

    def seconds(program: str, split: int, **more: Any) -> float:
        row = next(
            r
            for r in found
            if r["program"] == program
            and (r["devices"], r["mesh"][1]) == (devices, split)
            and all(r.get(k) == v for k, v in more.items())
        )
        spent = 0.0
        for kind, sent in row["sent"].items():
            group = int(kind.rpartition(" ")[2])
            # The axis `model` lies within a host; what spans more, or the axis `data`, does not.
            inside = group <= split or devices <= HOST
            spent += sent / (WITHIN if inside else ACROSS)
        return spent

    steps = positions / (texts * LENGTH)
    sending = steps * seconds("capture of the subject", model)
    sending += steps * seconds("capture of the atlas", model, width=width)
    rows = sequences / (ROWS * devices // HOST)
    sums = rows * seconds("a step of the sums", HOST, width=width)
    sums += seconds("adding the sums, once", HOST, width=width)
    polar = len(LAYERS) * seconds("polar factor, each site", HOST, width=width)
    flops = positions * LLAMA.flops(1 + max(LAYERS), tokens)
    flops += positions * (GEMMA.flops(1 + SAE_LAYER, tokens) + 2 * GEMMA.d * width)
    forward = flops / FORWARD / devices
    products = 2 * sequences * width * (2 * len(LAYERS) * LLAMA.mlp + width)
    work = products / SUMS / devices
    share = (sending + sums) / (sending + sums + forward + work)
    return (
        f"| {devices} | {model} | {width:,} | {sequences / 1e6:g}M | {span(forward)} | "
        f"{span(work)} | {span(sending)} / {span(sums)} / {span(polar)} | {share:.1%} |"
    )


def span(seconds: float) -> str:
    """A time in words."""
    return hours(seconds / 3600) if seconds >= 90 else f"{seconds:.1f} s" if seconds else "0"


def size(n: float) -> str:
    """Bytes in words."""
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:,.0f} {unit}"
        n /= 1000
    return f"{n:,.1f} GB"


def page(text: str) -> str:
    """The page with the tables between its markers."""
    begin, end = "<!-- communication -->", "<!-- end of communication -->"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    found = json.loads(OUT.read_text())["programs"]
    return f"{head}{begin}\n\n{tables(found)}\n\n{end}{tail}"


def main(arguments: argparse.Namespace) -> None:
    if arguments.devices:
        count(arguments.devices, arguments.small)
        return
    if arguments.write:
        PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
        return
    programs = []
    for devices in DEVICES:
        command = [sys.executable, __file__, "--devices", str(devices)]
        command += ["--small"] if arguments.small else []
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        programs += [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
    from importlib.metadata import version

    result = {"benchmark": "communication", "jax": version("jax"), "programs": programs}
    if not arguments.small:
        OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(programs)} programs")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=0, help="only so many, and only print")
    parser.add_argument("--small", action="store_true", help="narrow models; nothing is written")
    parser.add_argument("--write", action="store_true", help="the tables into docs/scale.md")
    main(parser.parse_args())
