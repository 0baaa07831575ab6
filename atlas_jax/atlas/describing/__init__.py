from atlas_jax.atlas.describing.label import LABEL_SOURCES, label_atlas

__all__ = ["LABEL_SOURCES", "label_atlas"]
