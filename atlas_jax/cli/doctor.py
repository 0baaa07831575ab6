"""`atlas-jax doctor`: what this machine offers, and what will be slow on it."""

from __future__ import annotations

import json
import os
import shutil
from typing import Annotated, Any

import typer

from atlas_jax.cli.console import Terminal, reports_errors


@reports_errors
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Shows devices, versions, memory and the cache of models and texts."""
    import jax

    from atlas_jax.assets import ASSETS, cache_folder
    from atlas_jax.pipeline.run import versions

    folder = cache_folder()
    place = next(p for p in (folder, *folder.parents) if p.exists())
    found: dict[str, Any] = {
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "cores": os.cpu_count(),
        "memory_gb": round(_memory() / 1e9, 1),
        "versions": versions(),
        "cache": str(folder),
        "disk_free_gb": round(shutil.disk_usage(place).free / 1e9, 1),
        "assets": {
            name: {
                "mb": round(asset.size / 1e6),
                "fetched": (folder / asset.directory).is_dir(),
                "licence": asset.licence,
            }
            for name, asset in ASSETS.items()
        },
    }
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    terminal = Terminal()
    for key in ("devices", "cores", "memory_gb", "cache", "disk_free_gb"):
        value = found[key]
        terminal.line(f"{key}: {', '.join(value) if isinstance(value, list) else value}")
    terminal.table(["package", "version"], [[k, v] for k, v in found["versions"].items()])
    terminal.table(
        ["asset", "MB", "in the cache", "licence"],
        [
            [name, str(a["mb"]), "yes" if a["fetched"] else "no", a["licence"]]
            for name, a in found["assets"].items()
        ],
    )


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
