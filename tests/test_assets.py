"""Fetching assets, without a network: wheels are zip files made here, pip is replaced."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from atlas_jax.assets import ASSETS, Asset, cache_folder, fetch
from atlas_jax.assets.catalogue import Join, Member, Package
from atlas_jax.errors import InputError


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Index:
    """A package index in a folder, and the `pip download` that reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[str] = []
        self.commands: list[list[str]] = []
        self.failure: tuple[int, str] | None = None
        self.damage = lambda content: content

    def add(self, requirement: str, files: dict[str, bytes]) -> None:
        name, version = requirement.split("==")
        with zipfile.ZipFile(self.folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            for path, content in files.items():
                wheel.writestr(path, content)

    def run(self, command, **_):
        requirement = command[-1]
        self.calls.append(requirement)
        self.commands.append(command)
        if self.failure:
            return subprocess.CompletedProcess(command, self.failure[0], "", self.failure[1])
        name, version = requirement.split("==")
        wheel = self.folder / f"{name}-{version}-py3-none-any.whl"
        target = Path(command[command.index("-d") + 1]) / wheel.name
        target.write_bytes(self.damage(wheel.read_bytes()))
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def index(tmp_path, monkeypatch):
    folder = tmp_path / "index"
    folder.mkdir()
    index = Index(folder)
    monkeypatch.setattr("atlas_jax.assets.wheels.subprocess.run", index.run)
    monkeypatch.setenv("ATLAS_JAX_CACHE", str(tmp_path / "cache"))
    return index


@pytest.fixture
def add(monkeypatch):
    def add(name, packages, **options):
        values = {"kind": "text", "path": "", "licence": "MIT", "size": 1000} | options
        asset = Asset(name=name, packages=tuple(packages), **values)
        monkeypatch.setitem(ASSETS, name, asset)
        return asset

    return add


CONTENT = b"some text that is an asset " * 400


@pytest.fixture
def simple(index, add):
    index.add("pkg==1", {"pkg/data/a.txt": CONTENT, "pkg/__init__.py": b"raise SystemExit(3)"})
    return add("simple", [Package("pkg==1", (Member("pkg/data/a.txt", sha256(CONTENT)),))],
               path="a.txt")  # fmt: skip


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if ".part" in p.name or ".fetch" in p.name]


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_takes_the_member_alone_and_returns_at_once_the_second_time(simple, index, capsys):
    path = fetch("simple")
    assert path.read_bytes() == CONTENT
    assert path.parent == cache_folder() / "simple"
    visible = {p.name for p in path.parent.iterdir() if not p.name.startswith(".")}
    assert visible == {"a.txt", "asset.json"}
    assert not leftovers(path.parent)
    said = capsys.readouterr().err
    assert "simple" in said and "MIT" in said
    assert fetch("simple") == path
    assert index.calls == ["pkg==1"]
    assert capsys.readouterr().err == ""


def test_pip_is_asked_for_one_pinned_wheel_without_dependencies(simple, index):
    fetch("simple")
    assert {"--no-deps", "--only-binary=:all:", "pkg==1"} <= set(index.commands[0])


def test_unknown_name_lists_the_names_and_the_nearest():
    with pytest.raises(InputError, match=r"Did you mean gemma-3-270m\?") as error:
        fetch("gemma-3-270")
    assert all(name in one_line(error) for name in ASSETS)


def test_changed_content_is_refused_and_removed(simple, index):
    index.add("pkg==1", {"pkg/data/a.txt": CONTENT[:-1] + b"!"})
    with pytest.raises(InputError) as error:
        fetch("simple")
    message = one_line(error)
    assert sha256(CONTENT) in message and sha256(CONTENT[:-1] + b"!") in message
    assert not (cache_folder() / "simple" / "a.txt").exists()
    assert not leftovers(cache_folder())
    index.add("pkg==1", {"pkg/data/a.txt": CONTENT})
    assert fetch("simple").read_bytes() == CONTENT


@pytest.mark.parametrize("kept", [0, 10, 300, 5000])
def test_truncated_wheel_is_refused(simple, index, kept):
    index.damage = lambda content: content[:kept]
    with pytest.raises(InputError, match="damaged or truncated") as error:
        fetch("simple")
    one_line(error)
    index.damage = lambda content: content
    assert fetch("simple").read_bytes() == CONTENT


def test_bits_flipped_inside_the_member_are_noticed(simple, index):
    def flip(content: bytes) -> bytes:
        at = content.index(CONTENT[:20]) + 5
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    index.damage = flip
    with pytest.raises(InputError, match=r"damaged|sha256"):
        fetch("simple")
    assert not leftovers(cache_folder())


def test_no_network_says_what_to_do(simple, index):
    index.failure = (1, "WARNING: Retrying\nERROR: No matching distribution found for pkg==1\n")
    with pytest.raises(InputError, match="connect to a network") as error:
        fetch("simple")
    assert "No matching distribution found" in one_line(error)


def test_no_pip(simple, monkeypatch):
    monkeypatch.setattr("atlas_jax.assets.wheels.find_spec", lambda name: None)
    with pytest.raises(InputError, match="ensurepip") as error:
        fetch("simple")
    one_line(error)


def test_pip_that_brings_nothing(simple, monkeypatch):
    done = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr("atlas_jax.assets.wheels.subprocess.run", lambda *a, **k: done)
    with pytest.raises(InputError, match="got none"):
        fetch("simple")


def test_no_room_is_seen_before_the_download(simple, index, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr("atlas_jax.assets.cache.shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="free disk") as error:
        fetch("simple")
    one_line(error)
    assert index.calls == []


@pytest.mark.parametrize("where", ["pip", "extract"])
def test_no_room_in_the_middle(simple, index, monkeypatch, where):
    if where == "pip":
        index.failure = (1, "ERROR: Could not install: [Errno 28] No space left on device\n")
    else:

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("atlas_jax.assets.wheels.copy_hashed", full)
    with pytest.raises(InputError, match="ATLAS_JAX_CACHE") as error:
        fetch("simple")
    assert "full" in one_line(error)
    assert not leftovers(cache_folder())


def test_a_cache_that_cannot_be_written(simple, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATLAS_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="ATLAS_JAX_CACHE") as error:
        fetch("simple")
    one_line(error)


@pytest.mark.parametrize(
    "name", ["data/../../../evil.txt", "/data/evil.txt", "data/..", "data\\..\\evil.txt"]
)
def test_members_that_would_leave_the_folder_are_refused(index, add, name):
    index.add("bad==1", {name: CONTENT})
    add("bad", [Package("bad==1", (Member("*data*", sha256(CONTENT)),))])
    with pytest.raises(InputError, match="not to be trusted"):
        fetch("bad")
    inside = {p.name for p in (cache_folder() / "bad").iterdir()}
    assert inside <= {".lock"}
    assert not list(cache_folder().parent.rglob("evil*"))


def test_missing_member(index, add):
    index.add("bad==1", {"else.txt": CONTENT})
    add("bad", [Package("bad==1", (Member("bad/a.txt", sha256(CONTENT)),))])
    with pytest.raises(InputError, match=r"bad/a\.txt"):
        fetch("bad")


def test_glob_is_checked_against_the_listing(index, add):
    files = {"g/b.txt": b"2", "g/a.txt": b"1", "g/c.md": b"3"}
    listing = "".join(f"{sha256(files[n])}  {n}\n" for n in ("g/a.txt", "g/b.txt"))
    index.add("g==1", files)
    add("glob", [Package("g==1", (Member("g/*.txt", sha256(listing.encode()), to="in/x"),))])
    folder = fetch("glob")
    assert {p.name for p in (folder / "in" / "x").iterdir()} == {"a.txt", "b.txt"}
    add("more", [Package("g==1", (Member("g/*", sha256(listing.encode())),))])
    with pytest.raises(InputError, match="sha256"):
        fetch("more")
    assert not leftovers(cache_folder())


@pytest.fixture
def pieces(index, add):
    parts = (b"first half, ", b"second half")
    packages = [Package("terms==1", (Member("t/TERMS.html", sha256(b"terms")),))]
    index.add("terms==1", {"t/TERMS.html": b"terms"})
    for i, part in enumerate(parts):
        index.add(f"part{i}==1", {f"p/w.part{i}": part})
        packages.append(Package(f"part{i}==1", (Member(f"p/w.part{i}", sha256(part)),)))
    join = Join(("w.part0", "w.part1"), "w", sha256(b"".join(parts)))
    return add("pieces", packages, path="w", join=join, terms="Mind the terms.")


def test_pieces_are_joined_and_removed_and_terms_shown_once(pieces, index, capsys):
    path = fetch("pieces")
    assert path.read_bytes() == b"first half, second half"
    visible = {p.name for p in path.parent.iterdir() if not p.name.startswith(".")}
    assert visible == {"w", "TERMS.html", "asset.json"}
    assert capsys.readouterr().err.count("Mind the terms.") == 1
    fetch("pieces")
    assert "Mind" not in capsys.readouterr().err
    assert index.calls == ["terms==1", "part0==1", "part1==1"]


def test_resumes_with_the_packages_that_are_missing(pieces, index):
    whole = index.run

    def stops(command, **options):
        if command[-1] == "part1==1" and index.calls.count("part1==1") == 0:
            index.failure = (1, "ERROR: connection lost")
        result = whole(command, **options)
        index.failure = None
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atlas_jax.assets.wheels.subprocess.run", stops)
        with pytest.raises(InputError, match="connection lost"):
            fetch("pieces")
        assert (cache_folder() / "pieces" / "w.part0").read_bytes() == b"first half, "
        assert fetch("pieces").read_bytes() == b"first half, second half"
    assert index.calls == ["terms==1", "part0==1", "part1==1", "part1==1"]


def test_a_lost_whole_brings_its_pieces_again_and_no_more(pieces, index):
    fetch("pieces").unlink()
    index.calls.clear()
    assert fetch("pieces").read_bytes() == b"first half, second half"
    assert index.calls == ["part0==1", "part1==1"]


def test_pieces_that_do_not_belong_together(pieces, add):
    add("pieces", pieces.packages, path="w", join=Join(("w.part0", "w.part1"), "w", sha256(b"")))
    with pytest.raises(InputError, match="do not belong together"):
        fetch("pieces")
    assert not (cache_folder() / "pieces" / "w").exists()


def test_a_file_changed_in_the_cache_is_fetched_again(simple, index):
    path = fetch("simple")
    path.write_bytes(CONTENT[:-1] + b"!")  # same size, another modification time
    os.utime(path, (1, 1))
    assert fetch("simple").read_bytes() == CONTENT
    path.write_bytes(b"short")
    assert fetch("simple").read_bytes() == CONTENT
    path.unlink()
    assert fetch("simple").read_bytes() == CONTENT
    assert index.calls == ["pkg==1"] * 4


def test_a_touched_file_is_checked_and_kept(simple, index):
    path = fetch("simple")
    os.utime(path, (1, 1))
    assert fetch("simple") == path
    assert index.calls == ["pkg==1"]
    ledger = json.loads((path.parent / "asset.json").read_text())
    assert ledger["packages"]["pkg==1"]["a.txt"]["mtime_ns"] == 10**9


def test_a_damaged_ledger_or_a_new_version_fetches_again(simple, index, add):
    path = fetch("simple")
    (path.parent / "asset.json").write_text("{")
    assert fetch("simple").read_bytes() == CONTENT
    index.add("pkg==2", {"pkg/data/a.txt": b"new"})
    add("simple", [Package("pkg==2", (Member("pkg/data/a.txt", sha256(b"new")),))], path="a.txt")
    assert fetch("simple").read_bytes() == b"new"
    assert index.calls == ["pkg==1", "pkg==1", "pkg==2"]


def test_what_a_killed_process_left_is_swept(simple):
    folder = cache_folder() / "simple"
    (folder / ".fetch-x").mkdir(parents=True)
    (folder / ".a.txt.1.part").write_bytes(b"half")
    fetch("simple")
    assert not leftovers(folder)


def test_assets_of_one_package_share_its_download(index, add):
    index.add("two==1", {"t/a": b"a", "t/b": b"b"})
    package = Package("two==1", (Member("t/a", sha256(b"a")), Member("t/b", sha256(b"b"))))
    add("one", [package], path="a", folder="shared")
    add("other", [package], path="b", folder="shared")
    assert (fetch("one").read_bytes(), fetch("other").read_bytes()) == (b"a", b"b")
    assert index.calls == ["two==1"]


def test_catalogue_is_pinned_and_complete():
    for name, asset in ASSETS.items():
        assert asset.name == name and asset.licence and asset.size > 0
        for package in asset.packages:
            assert package.requirement.count("==") == 1
            assert all(len(member.sha256) == 64 for member in package.members)
    assert ASSETS["gemma-3-270m"].terms and "GEMMA_TERMS.html" in ASSETS["gemma-3-270m"].terms
    assert ASSETS["smollm2-135m-instruct"].hub_id == "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.download
@pytest.mark.parametrize("name", ["punkt-tab", "text-wikipedia", "text-news", "text-quotations"])
def test_real_package(name, tmp_path):
    path = fetch(name, cache=tmp_path)
    assert path.exists()
    assert fetch(name, cache=tmp_path) == path
