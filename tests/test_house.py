"""The house: the README's commands, cheap imports, directions of dependency, the wheel."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import metadata
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "atlas_jax"
COMMANDS = [
    "python3 -m venv .venv && . .venv/bin/activate && pip install . && atlas-jax quickstart",
    "python3 -m venv .venv && . .venv/bin/activate && pip install '.[test]' && pytest",
]
HEAVY = {"transformers", "datasets", "nltk", "torch", "sklearn", "matplotlib", "tensorstore"}
# Knows nothing of: the parts that stand beside it, and all that stands on them.
APART = ("kernels", "models", "translate", "corpus")
JOINING = ("activations", "atlas", "evaluate", "verbalize", "explorer", "report", "cli", "recipes")
TOP = ("cli", "explorer", "quickstart", "pipeline", "report", "run")
# Takes arrays and returns arrays.
NUMERIC = (
    "translate/moments.py",
    "translate/host_rows.py",
    "translate/device_sums.py",
    "translate/linear.py",
    "translate/ridge_path.py",
    "translate/polar.py",
    "translate/polar_iteration.py",
    "translate/procrustes.py",
    "translate/procrustes_exact.py",
    "translate/semantic_lens.py",
    "evaluate/faithfulness.py",
    "evaluate/judges_agreement.py",
    "evaluate/ranking.py",
    "activations/pool.py",
    "atlas/sae.py",
    "models/sites.py",
)
INPUT_OUTPUT = {
    *("os", "io", "pathlib", "json", "shutil", "tempfile", "subprocess", "socket", "urllib"),
    *("requests", "huggingface_hub", "safetensors", "tensorstore", "datasets", "transformers"),
    *("pyarrow", "gguf"),
}


# Calls that write a file, and where its name stands among their arguments; -1: before the dot.
WRITERS = {
    **dict.fromkeys(("write_text", "write_bytes", "touch"), -1),
    **dict.fromkeys(("np.save", "np.savez", "ParquetWriter", "new_file", "new_stream"), 0),
    **dict.fromkeys(("open_memmap", "open"), 0),
    **dict.fromkeys(("torch.save", "save_file", "copyfile", "copy2", "move"), 1),
}
# What writes in place, or has a draft by another name, and why.
IN_PLACE = {
    "journal.py": "is added to; a torn last line is cut off",
    "assets/wheels.py": "several files take their names together, once their checksum is right",
    "atlas/recording.py": "a memory map that grows; state.json says what of it is whole",
    "corpus/draw.py": "a part of a build, which another build does not read",
    "corpus/writer.py": "two files that take their names together",
    "pipeline/run.py": "an empty file that processes look for",
    "pipeline/smoke.py": "an example made anew each time",
}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions; relative names made absolute."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parts = [*path.relative_to(ROOT).parent.parts, ""][: -node.level]
                module = ".".join([*filter(None, parts), *([module] if module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def files(*parts: str) -> list[Path]:
    """The modules of parts of the package: folders, or single files."""
    found: list[Path] = []
    for part in parts:
        folder = ROOT / "kernels" if part == "kernels" else PACKAGE / part
        found += folder.rglob("*.py") if folder.is_dir() else []
        found += [p for p in [folder.with_suffix(".py")] if p.is_file()]
    return sorted(found)


def reaches(path: Path, part: str) -> bool:
    name = f"atlas_jax.{part}"
    return any(module == name or module.startswith(f"{name}.") for module in imports(path))


def python(code: str) -> str:
    """What a fresh interpreter prints; nothing of this test run is in it."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_readme_opens_with_the_two_commands():
    text = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)
    assert blocks[:2] == [f"{command}\n" for command in COMMANDS]
    lines = [line for line in text.splitlines() if line.startswith("python3 -m venv ")]
    assert lines == COMMANDS
    assert text.index(COMMANDS[0]) < text.index("\n## ")


def test_ci_takes_its_command_from_the_readme():
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    grep, line = re.search(r"grep '(\^[^']*)' .* \| sed -n \"(\$1p)\"", script).groups()  # type: ignore[union-attr]
    readme = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert [text for text in readme if re.search(grep, text)][1] == COMMANDS[1]
    assert line == "$1p" and "readme_command 2" in script
    assert "set -euo pipefail" in script
    checked = subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=False)
    assert checked.returncode == 0


def test_links_of_the_documents_lead_somewhere():
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"):
        text = (ROOT / name).read_text("utf-8")
        for target in re.findall(r"\]\((?!https://|#)([^)]+)\)", text):
            assert (ROOT / target).exists(), f"{name} links to {target}"
        for path in re.findall(r"`((?:atlas_jax|tests)/[\w./]*)`", text):
            assert (ROOT / path).exists(), f"{name} names {path}"


def test_the_documents_name_the_dicts_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for name, path in {
        "FAMILIES": "models/families/__init__.py",
        "METHODS": "translate/methods.py",
        "SAE_FORMATS": "atlas/formats/__init__.py",
        "PACKAGE_SOURCES": "corpus/packages.py",
        "JUDGES": "evaluate/judges.py",
    }.items():
        assert f"`{name}`" in text and f"atlas_jax/{path}" in text
        assert re.search(rf"^{name}\b.*[:=]", (PACKAGE / path).read_text("utf-8"), re.M)


def test_every_asset_is_listed_with_its_licence():
    from atlas_jax.assets import ASSETS

    rows = {
        cells[0].strip("`"): cells[2]
        for line in (ROOT / "docs" / "assets.md").read_text("utf-8").splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 3
    }
    for name, asset in ASSETS.items():
        assert name in rows
        assert asset.licence.split("(")[0].split()[0] in rows[name]


def test_the_import_is_cheap():
    code = "import time; t = time.perf_counter(); import atlas_jax; print(time.perf_counter() - t)"
    assert min(float(python(code)) for _ in range(3)) < 1.5
    loaded = python("import sys, atlas_jax; print(*sys.modules)").split()
    assert "atlas_jax" in loaded
    assert not HEAVY & {module.split(".")[0] for module in loaded}


def test_every_public_name_resolves():
    import atlas_jax

    assert len(atlas_jax.__all__) == len(set(atlas_jax.__all__)) > 10
    for name in atlas_jax.__all__:
        assert getattr(atlas_jax, name) is not None
    assert set(atlas_jax.__all__) <= set(dir(atlas_jax))
    with pytest.raises(AttributeError):
        _ = atlas_jax.no_such_name


def test_the_readme_uses_public_names_only():
    import atlas_jax

    text = (ROOT / "README.md").read_text("utf-8")
    used = set(re.findall(r"\baj\.(\w+)", text))
    assert len(used) > 6
    assert used <= set(atlas_jax.__all__)
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S):
        ast.parse(block)


@pytest.mark.parametrize("part", APART)
def test_parts_that_know_nothing_of_each_other(part):
    others = [other for other in (*APART, *JOINING) if other != part]
    wrong = [
        (path.name, other)
        for path in files(part)
        for other in others
        # A kernel is called by whoever needs it; what it must not do is call back.
        if not (other == "kernels" and part in ("models", "translate"))
        if reaches(path, other)
    ]
    assert wrong == []


@pytest.mark.parametrize("part", ["assets", "activations", "atlas", "evaluate", "report"])
def test_nothing_flows_back(part):
    later = {
        "assets": [*APART, *JOINING],
        "activations": ["evaluate", "verbalize", "corpus", "translate", *TOP],
        "atlas": ["evaluate", "verbalize", "translate", *TOP],
        "evaluate": ["verbalize", *TOP],
        "report": [*APART, "activations", "atlas", "evaluate", "assets", "cli"],
    }[part]
    found = files(part)
    assert found
    wrong = [(p.name, o) for p in found for o in later if o != part and reaches(p, o)]
    assert wrong == []


@pytest.mark.parametrize("path", NUMERIC)
def test_numeric_modules_touch_no_file_and_no_network(path):
    found = {module.split(".")[0] for module in imports(PACKAGE / path)}
    assert not found & INPUT_OUTPUT
    assert not any(reaches(PACKAGE / path, part) for part in ("assets", "progress", "parallel"))


def test_torch_is_a_matter_of_tests():
    paths = [*PACKAGE.rglob("*.py"), *files("kernels")]
    assert len(paths) > 30
    wrong = [
        p.name for p in paths if {"torch", "accelerate"} & {m.split(".")[0] for m in imports(p)}
    ]
    # Files in torch's own format are read and written by torch, where it is installed.
    assert sorted(wrong) == ["tensors.py", "torch_file.py"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert not [d for d in project["dependencies"] if re.match(r"torch\b", d)]


def test_no_module_is_named_for_nothing():
    forbidden = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
    paths = [*PACKAGE.rglob("*.py"), *files("kernels")]
    assert not [p.name for p in paths if p.stem in forbidden]


def writes(path: Path) -> Iterator[int]:
    """Lines of a module that write a file which is not called a draft."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, ast.Call):
            continue
        name, arguments = ast.unparse(node.func), list(map(ast.unparse, node.args))
        owner, _, method = name.rpartition(".")
        place = WRITERS.get(name, WRITERS.get(method))
        if method == "open":
            place = -1 if owner and owner != "os" else 0
            if not any(re.fullmatch(r"'[rbt]*[wax+].*'", text) for text in arguments[-1:]):
                continue
        if place is None or place >= len(arguments) or (place < 0 and not owner):
            continue
        # An open file was asked for before, with its name.
        target = owner if place < 0 else arguments[place]
        if "draft" not in target and target not in ("file", "out"):
            yield node.lineno


def test_files_are_written_through_drafts(tmp_path):
    sample = tmp_path / "sample.py"
    sample.write_text(
        'path.write_text("")\nnp.savez(path, a=a)\nopen(path, "w")\npath.open("wb")\n'
        'draft.write_text("")\npath.open("rb")\nsave_file(arrays, folder / "a")\nmap.save(path)'
    )
    assert sorted(writes(sample)) == [1, 2, 3, 4, 7]
    found = {
        str(path.relative_to(PACKAGE)): lines
        for path in sorted(PACKAGE.rglob("*.py"))
        if (lines := list(writes(path)))
    }
    assert {path: lines for path, lines in found.items() if path not in IN_PLACE} == {}
    assert set(IN_PLACE) <= set(found)


def test_the_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## [{project['version']}]" in changes
    assert "Apache License" in (ROOT / "LICENSE").read_text("utf-8")


def test_the_wheel_holds_the_kernels_and_the_data(tmp_path):
    tree = tmp_path / "tree"
    kept = ("atlas_jax", "kernels", "pyproject.toml", "README.md", "LICENSE")
    for path in (ROOT / name for name in kept):
        if path.is_dir():
            shutil.copytree(path, tree / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            tree.mkdir(exist_ok=True)
            shutil.copy(path, tree)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path)]
    command += ["--disable-pip-version-check"]
    if find_spec("setuptools"):  # else pip fetches it, as it does when it installs the package
        command.append("--no-build-isolation")
    built = subprocess.run([*command, str(tree)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(n for n in names if n.endswith(".dist-info/METADATA"))
        assert "License-Expression: Apache-2.0" in archive.read(metadata).decode()
    expected = {
        p.relative_to(ROOT).as_posix()
        for p in PACKAGE.rglob("*")
        if p.suffix in {".py", ".typed", ".toml", ".json"}
        or ("released" in p.parts and p.is_file())
    }
    expected |= {f"atlas_jax/{p.relative_to(ROOT).as_posix()}" for p in files("kernels")}
    assert not {name for name in expected if name not in names and "__pycache__" not in name}
    assert "atlas_jax/py.typed" in names
    assert not [name for name in names if name.split("/")[0] in ("kernels", "tests")]


FAMILIES = {
    "Apache-2.0": ("apache",),
    "BSD-3-Clause": ("bsd", "enthought"),
    "MIT": ("mit",),
    "PSF (matplotlib's own)": ("python software foundation", "matplotlib"),
    "ISC": ("isc",),
    "MPL-2.0": ("mpl",),
}


def test_every_dependency_is_listed_with_the_licence_it_states():
    page = (ROOT / "docs" / "licences.md").read_text("utf-8")
    listed = {
        name.strip(): licence
        for licence, names in re.findall(r"^\| (\S[^|]*) \| ([^|]+) \|$", page, re.M)
        for name in names.split(",")
        if licence in FAMILIES
    }
    listed |= {name: licence for name, licence in re.findall(r"([\w-]+) \((\S+?)\)", page)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    names = {re.match(r"[\w.-]+", line)[0] for line in wanted} - {"atlas-jax"}
    for name in sorted(names):
        assert listed.get(name) in FAMILIES, name
        about = metadata(name)
        stated = [about.get("License-Expression"), about.get("License")]
        stated += [c for c in about.get_all("Classifier") or [] if c.startswith("License")]
        text = " ".join(s for s in stated if s).lower()
        assert any(word in text for word in FAMILIES[listed[name]]), (name, text[:200])
