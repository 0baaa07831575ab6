"""The documentation: it builds without a warning, loads nothing, and says what the package has."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import atlas_jax
from atlas_jax.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built pages by their path; links between them that lead nowhere fail the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    found = {p.relative_to(folder).as_posix(): p.read_text("utf-8") for p in folder.rglob("*.html")}
    assert len(found) > 15
    return found


def commands(group, above=""):
    """Every command of the program by its full name."""
    for name, command in getattr(group, "commands", {}).items():
        yield f"{above}{name}"
        yield from commands(command, f"{above}{name} ")


COMMANDS = sorted(commands(typer.main.get_command(app)))


def test_pages_load_nothing_from_elsewhere(site):
    for path, page in site.items():
        loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?([^\s\">]+)", page)
        assert loaded and not [where for where in loaded if "//" in where], path


def test_every_public_name_and_every_command_has_its_place(site):
    reference = "".join(page for path, page in site.items() if path.startswith("reference/"))
    for name in atlas_jax.__all__:
        assert re.search(rf'id="?atlas_jax[\w.]*\.{name}"?[ >]', reference), name
    listed = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")
    groups = {name for name in COMMANDS if any(c.startswith(f"{name} ") for c in COMMANDS)}
    for name in COMMANDS:
        assert f"`atlas-jax {name}" in listed or name in groups, name


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_what_a_page_shows_is_python_and_commands_that_exist(path):
    text = path.read_text("utf-8")
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S):
        ast.parse(block)
        assert set(re.findall(r"\baj\.(\w+)", block)) <= set(atlas_jax.__all__)
    first = {command.split()[0] for command in COMMANDS}
    shells = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S))
    assert set(re.findall(r"^(?:srun )?atlas-jax (\S+)", shells, re.M)) <= first
