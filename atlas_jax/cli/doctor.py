"""`atlas-jax doctor`: what this machine offers, and what will be slow on it and why."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from atlas_jax.cli.console import Terminal, reports_errors

_FEW_CORES, _LITTLE_MEMORY_GB, _LITTLE_DISK_GB = 4, 8, 5
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@reports_errors
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Shows devices, versions, memory and the cache, and says what will be slow, and why.

    Of a token of the hub it says whether there is one, never what it is.
    """
    found = examine()
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    terminal = Terminal()
    for key, value in found.items():
        if not isinstance(value, dict) and key != "slow":
            shown = ", ".join(value) if isinstance(value, list) else value
            terminal.line(f"{key}: {shown}")
    terminal.table(["package", "version"], [[k, v] for k, v in found["versions"].items()])
    terminal.table(
        ["asset", "MB", "in the cache", "licence"],
        [
            [name, str(a["mb"]), "yes" if a["fetched"] else "no", a["licence"]]
            for name, a in found["assets"].items()
        ],
    )
    for sentence in found["slow"]:
        terminal.line(f"slow: {sentence}")
    if not found["slow"]:
        terminal.line("Nothing here is known to be slow.")


def examine() -> dict[str, Any]:
    """Everything that doctor shows, as JSON-able values."""
    import jax
    from huggingface_hub import get_token

    from atlas_jax.assets import ASSETS, cache_folder
    from atlas_jax.pipeline.run import version_of, versions

    folder = cache_folder()
    place = next(p for p in (folder, *folder.parents) if p.exists())
    found: dict[str, Any] = {
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "accelerator": jax.default_backend() != "cpu",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cores(),
        "memory_gb": round(_pages("SC_PHYS_PAGES") / 1e9, 1),
        "memory_free_gb": round(_free_memory() / 1e9, 1),
        "cache": str(folder),
        "cache_gb": round(_size(folder) / 1e9, 2),
        "compiled_programs": sum(1 for _ in (folder / "compiled").glob("*")),
        "disk_free_gb": round(shutil.disk_usage(place).free / 1e9, 1),
        "hub_token": "yes" if get_token() else "no",
        "versions": versions() | {name: version_of(name) for name in ("jaxlib", "torch")},
        "assets": {
            name: {
                "mb": round(asset.size / 1e6),
                "fetched": (folder / asset.directory).is_dir(),
                "licence": asset.licence,
            }
            for name, asset in ASSETS.items()
        },
    }
    return found | {"slow": slow(found, dict(os.environ), shutil.which("nvidia-smi") is not None)}


def slow(found: dict[str, Any], environment: dict[str, str], nvidia: bool) -> list[str]:
    """What will be slow, and why, a sentence for each.

    Args:
        found: facts of `examine`.
        environment: variables that bound threads.
        nvidia: whether a driver of such a GPU is installed.
    """
    said = []
    if not found["accelerator"]:
        cure = (
            "an NVIDIA driver is here, but jax does not use it: pip install 'jax[cuda13]'"
            if nvidia
            else "take small models or few sentences"
        )
        said.append(f"models, since jax has no accelerator and runs on the CPU; {cure}.")
    if found["cores"] < _FEW_CORES and not found["accelerator"]:
        said.append(f"everything, since this process may use {found['cores']} core(s) only.")
    for name in _THREADS:
        value = environment.get(name, "")
        if value.isdecimal() and int(value) < found["cores"]:
            said.append(f"fits, since {name}={value} leaves cores idle.")
    if found["memory_free_gb"] < _LITTLE_MEMORY_GB:
        said.append(
            f"or stopped for want of memory: {found['memory_free_gb']} GB are free, and quickstart "
            "takes up to 5; bound a fit with --max-memory."
        )
    missing = [a["mb"] for a in found["assets"].values() if not a["fetched"]]
    if missing:
        said.append(f"the first run that needs them: {sum(missing)} MB of assets to download.")
    if not found["compiled_programs"]:
        said.append(
            "the first run, which compiles its programs; later ones find them in the cache."
        )
    if found["disk_free_gb"] < _LITTLE_DISK_GB:
        said.append(
            f"or stopped for want of disk: {found['disk_free_gb']} GB are free beside the cache; "
            "set ATLAS_JAX_CACHE to another disk."
        )
    if found["hub_token"] == "no":
        said.append(
            "or refused, gated models of the hub: there is no token (hf auth login). Quickstart "
            "needs none."
        )
    return said


def _cores() -> int:
    return os.cpu_count() or 1


def _pages(name: str) -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf(name)


def _free_memory() -> int:
    """What may be had without swapping, where the system says so."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(row.split()[1]) * 1024 for row in lines if row.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        return _pages("SC_PHYS_PAGES")


def _size(folder: Path) -> int:
    """Bytes of all files below, links not followed."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            total += path.lstat().st_size if path.exists() else 0
    return total
