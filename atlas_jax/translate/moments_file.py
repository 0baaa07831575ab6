"""Moments on disk: saved while they grow, read again after a kill, merged across runs.

A folder with one safetensors file for each part (all rows, or a fold) and block of atlas features;
each is replaced in one step. Its header says what the rows were and how many are in.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from atlas_jax.errors import InputError
from atlas_jax.files import read_tensors, write_tensors
from atlas_jax.outside import refusing
from atlas_jax.translate.moments import (
    AtlasMoments,
    Moments,
    SiteMoments,
    SitesOnDemand,
)
from atlas_jax.translate.semantic_lens import TopSamples

_FORMAT = "atlas-jax moments 1"
_KINDS = {"n": int, "left": int, "sites": list, "inputs": list}
_NAME = re.compile(r"(all|fold\d+)-(\d+)-(\d+)\.safetensors")

Columns = tuple[int, int]


class MomentsFolder:
    """The moments of one run.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def save(
        self, part: str, columns: Columns, moments: Moments, header: Mapping[str, Any]
    ) -> None:
        """Writes a part and block in one step.

        Args:
            part: `all` or `fold0`, ...
            columns: the block of atlas features.
            moments: its sums.
            header: JSON-able: `inputs` (a list of what the rows were), `wanted`, `left` (rows that
                are not in).
        """
        text = json.dumps({**header, "n": moments.n, "sites": list(moments.sites)})
        notes = {"format": _FORMAT, "header": text}
        write_tensors(self._file(part, columns), _tensors(moments), notes)

    def load(self, part: str, columns: Columns) -> tuple[Moments, dict[str, Any]] | None:
        """What `save` wrote; None where there is nothing."""
        path = self._file(part, columns)
        if not path.exists():
            return None
        header = _header(path)
        tensors = _read(path)
        with refusing(f"the moments in {path}", "Delete the folder"):
            sites = {site: _site(tensors, i) for i, site in enumerate(header["sites"])}
            mine = {k.removeprefix("atlas."): v for k, v in tensors.items()}
            atlas = AtlasMoments(**{k: v for k, v in mine.items() if f"atlas.{k}" in tensors})
            return Moments(header["n"], atlas, sites), header

    def header(self) -> dict[str, Any]:
        """Of the first file.

        Raises:
            InputError: no moments there, or unfinished ones.
        """
        files = [path for path in sorted(self.path.glob("*.safetensors")) if _NAME.match(path.name)]
        if not files:
            raise InputError(
                f"Expected moments at {self.path}, found none: fit with --moments first."
            )
        headers = [_header(path) for path in files]
        for path, header in zip(files, headers, strict=True):
            if header["left"]:
                raise InputError(
                    f"The moments in {path} lack {header['left']} rows: run the same fit again, it "
                    "goes on where it stopped."
                )
        self._check_whole([header["n"] for header in headers], files, headers[0])
        return next(h for p, h in zip(files, headers, strict=True) if p.name.startswith("all-"))

    def _check_whole(self, n: list[int], files: list[Path], header: Mapping[str, Any]) -> None:
        """Refuses a folder that lacks a block of atlas features, or a fold."""
        parts, blocks = self.parts()
        with refusing(f"the moments in {self.path}", "Delete the folder"):
            width = header["inputs"][0]["atlas"]["width"]
        edges = [0, *(stop for _, stop in blocks)]
        rows = dict.fromkeys(parts, 0)
        rows |= {path.name.partition("-")[0]: count for path, count in zip(files, n, strict=True)}
        if (
            [start for start, _ in blocks] != edges[:-1]
            or edges[-1] != width
            or len(files) != len(parts) * len(blocks)
            or sum(rows.values()) != rows.get("all", -1) * min(len(parts), 2)
        ):
            raise InputError(
                f"The moments at {self.path} lack a file of a block of features or of a fold: "
                "delete the folder and fit again."
            )

    def parts(self) -> tuple[list[str], list[Columns]]:
        """The parts and the blocks there are, in order."""
        found = [m.groups() for path in self.path.iterdir() if (m := _NAME.match(path.name))]
        parts = sorted({part for part, *_ in found}, key=lambda p: (len(p), p))
        return parts, sorted({(int(a), int(b)) for _, a, b in found})

    def whole(self, part: str = "all") -> Moments:
        """The moments of all atlas features; of several blocks, the sites' are read when used."""
        _, blocks = self.parts()
        if len(blocks) == 1:
            loaded = self.load(part, blocks[0])
            assert loaded is not None
            return loaded[0]
        files = [self._file(part, block) for block in blocks]
        header = _header(files[0])
        tensors = _read(files[0], "atlas.")
        atlas = {}
        for name, value in tensors.items():
            grows = value.ndim == 2
            rows = [value, *(_read(f, name)[name] for f in files[1:])] if grows else [value]
            atlas[name.removeprefix("atlas.")] = np.concatenate(rows) if grows else value
        names = header["sites"]
        sites = SitesOnDemand(names, lambda site: _joined(files, names.index(site)))
        return Moments(header["n"], AtlasMoments(**atlas), sites)

    def _file(self, part: str, columns: Columns) -> Path:
        return self.path / f"{part}-{columns[0]:06d}-{columns[1]:06d}.safetensors"


def _joined(files: Sequence[Path], index: int) -> SiteMoments:
    """A site's moments from those of its blocks."""
    blocks = [_site(_read(path, f"site{index}."), index) for path in files]

    def whole(name: str) -> np.ndarray | None:
        values = [getattr(block, name) for block in blocks]
        return None if values[0] is None else np.concatenate(values)

    return replace(blocks[0], cross=whole("cross"), unit=whole("unit"))


def merge_moments(
    paths: list[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> dict[str, Any]:
    """Adds the moments of several runs on different texts; later runs' samples are numbered after.

    Raises:
        InputError: runs of other models, sites or sums, or the same texts twice.
    """
    folders = [MomentsFolder(path) for path in paths]
    if len(folders) < 2:
        raise InputError(f"Expected at least two folders of moments, got {len(folders)}.")
    headers = [folder.header() for folder in folders]
    inputs = [run for header in headers for run in header["inputs"]]
    _check_runs(paths, headers, folders)
    texts = [run["texts"] or json.dumps(run["atlas"]) for run in inputs]
    if len(set(texts)) < len(texts):
        raise InputError(
            "Expected runs on different texts, got the same texts twice: their samples would count "
            "double."
        )
    target = MomentsFolder(out)
    if target.path.exists() and any(target.path.iterdir()):
        raise InputError(f"Expected an empty folder for the merged moments, got {target.path}.")
    parts, blocks = folders[0].parts()
    for part in parts:
        for columns in blocks:
            merged: Moments | None = None
            for folder in folders:
                loaded = folder.load(part, columns)
                assert loaded is not None
                merged = loaded[0] if merged is None else merged.merge(loaded[0], after=True)
            assert merged is not None
            header = {"inputs": inputs, "wanted": headers[0]["wanted"], "left": 0}
            target.save(part, columns, merged, header)
    return target.header()


def _check_runs(
    paths: list[Any], headers: list[dict[str, Any]], folders: list[MomentsFolder]
) -> None:
    def same(header: dict[str, Any], folder: MomentsFolder) -> dict[str, Any]:
        run = header["inputs"][0]
        known = run["texts"] is not None  # else the fingerprint is that of the rows themselves
        sides = [*run["subjects"].values(), run["atlas"]]
        keys = ("model", "fingerprint", "site", "width") if known else ("site", "width")
        return {
            "models and sites": [[side[key] for key in keys] for side in sides],
            "pooling": run["pool"],
            "sums": header["wanted"],
            "folds and blocks": folder.parts(),
        }

    first = same(headers[0], folders[0])
    for path, header, folder in zip(paths[1:], headers[1:], folders[1:], strict=True):
        for what, value in same(header, folder).items():
            if value != first[what]:
                raise InputError(
                    f"Expected moments of the same {what} as {paths[0]}, {path} has others: "
                    f"{value} instead of {first[what]}."
                )


def _tensors(moments: Moments) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = dict(_arrays("atlas", moments.atlas))
    for i, site in enumerate(moments.sites.values()):
        found |= dict(_arrays(f"site{i}", site))
        if site.top is not None:
            found |= {f"site{i}.top.{k}": v for k, v in site.top._asdict().items()}
    return found


def _arrays(prefix: str, side: AtlasMoments | SiteMoments) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in vars(side).items():
        if isinstance(value, np.ndarray):
            yield f"{prefix}.{name}", value


def _site(tensors: Mapping[str, np.ndarray], index: int) -> SiteMoments:
    prefix = f"site{index}."
    mine = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    top = {k.removeprefix("top."): mine.pop(k) for k in list(mine) if k.startswith("top.")}
    return SiteMoments(**mine, top=TopSamples(**top) if top else None)


def _header(path: Path) -> dict[str, Any]:
    header = _open(path, None)[0]["header"]
    with refusing(f"the moments in {path}", "Delete the folder"):
        for key, kind in _KINDS.items():
            if not isinstance(header[key], kind):
                raise ValueError(f"{key} is {header[key]!r}")
    return header


def _read(path: Path, prefix: str = "") -> dict[str, np.ndarray]:
    return _open(path, prefix)[1]


def _open(path: Path, prefix: str | None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    remedy = "delete the folder"
    return read_tensors(path, "file of moments", remedy, _FORMAT, "header", prefix=prefix)
