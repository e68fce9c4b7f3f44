"""Probes: the inputs at which a monitor looks, and the segments between them."""

from fold_lightning.probes.batches import BatchToInputs, split_batch
from fold_lightning.probes.classes import num_classes_of, predicted_classes
from fold_lightning.probes.faces import FaceProbes, FaceSubspace, check_face_subspace
from fold_lightning.probes.model_input import ModelInput
from fold_lightning.probes.probe_set import ProbeSet
from fold_lightning.probes.segments import BetweenClasses, Segments, draw_segments
from fold_lightning.probes.source import ProbeSource

__all__ = [
    "BatchToInputs",
    "BetweenClasses",
    "FaceProbes",
    "FaceSubspace",
    "ModelInput",
    "ProbeSet",
    "ProbeSource",
    "Segments",
    "check_face_subspace",
    "draw_segments",
    "num_classes_of",
    "predicted_classes",
    "split_batch",
]
