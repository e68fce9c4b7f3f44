"""Faces of activation regions: the half-spaces that bound a region, proved row by row."""

from fold_lightning.faces.supporting import face_counts, supporting_units

__all__ = ["face_counts", "supporting_units"]
