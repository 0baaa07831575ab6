"""A checkpoint folder from a GGUF file, made once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from atlas_jax.errors import InputError
from atlas_jax.models.families import read_arch
from atlas_jax.models.gguf.header import Header
from atlas_jax.models.gguf.layouts import LAYOUTS
from atlas_jax.models.gguf.tensors import disk_bytes, hf_tensors, write_tensors
from atlas_jax.models.gguf.tokenizer import build_tokenizer, tokenizer_settings
from atlas_jax.outside import refusing


def convert_gguf(path: Path, folder: Path) -> Path:
    """Dequantises a GGUF file and writes a checkpoint folder, once.

    The folder appears under its name only when it is whole. What llama.cpp's converter did to the
    tensors is undone (see `layouts`). Quantised tensors become float32, so that the folder takes
    four bytes for each of their parameters (32 GB for 8 billion); tensors of 16 bits stay as they
    are, where nothing is computed on them. No more than a tensor and a shard of one gibibyte are
    held in memory.

    Args:
        path: the file; of a split model, the first part.
        folder: where the result goes; returned at once if it is there already.

    Raises:
        InputError: not a GGUF file, a damaged one, an architecture, a header key, a tensor or a
            tokenizer this does not know, or no room on the disk.
    """
    if (folder / "config.json").exists():
        return folder
    header = Header(path)
    if header.architecture not in LAYOUTS:
        raise InputError(
            f"Expected a GGUF file of architecture {', '.join(sorted(LAYOUTS))}, {path} has "
            f"'{header.architecture}'."
        )
    layout = LAYOUTS[header.architecture]
    with refusing(f"the header of {path}", "Download it again"):
        config = layout.config(header)
        header.finish()
        arch = read_arch(config)
        tensors = hf_tensors(header, arch)
        tokenizer = build_tokenizer(header)
        settings = tokenizer_settings(header)
    draft = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        need, free = disk_bytes(tensors, layout), shutil.disk_usage(draft).free
        if need > free:
            raise InputError(
                f"Expected {need / 1e9:.1f} GB of room in {folder.parent} for the weights of "
                f"{path.name}, found {free / 1e9:.1f} GB. Make room there."
            )
        write_tensors(tensors, layout, arch, draft)
        tokenizer.save(str(draft / "tokenizer.json"))
        (draft / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
        (draft / "config.json").write_text(json.dumps(config, indent=1))
        draft.rename(folder)
    except OSError as error:
        raise InputError(f"Could not write {folder}: {error.strerror}. Make room there.") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder
