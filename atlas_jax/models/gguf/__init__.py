"""GGUF files, read once into an ordinary checkpoint folder (config, safetensors, tokenizer)."""

from atlas_jax.models.gguf.convert import convert_gguf

__all__ = ["convert_gguf"]
