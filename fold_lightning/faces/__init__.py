"""Faces of activation regions: the half-spaces that are not redundant, each proved in float64."""

from fold_lightning.faces.supporting import face_counts, supporting_units

__all__ = ["face_counts", "supporting_units"]
