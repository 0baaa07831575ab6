"""Corpora: from raw documents to the two halves of unique sentences (paper, appendix A.2)."""

from atlas_jax.corpus.build import build_corpus
from atlas_jax.corpus.corpus import Corpus, Texts
from atlas_jax.corpus.documents import Document
from atlas_jax.corpus.sources import documents

__all__ = ["Corpus", "Document", "Texts", "build_corpus", "documents"]
