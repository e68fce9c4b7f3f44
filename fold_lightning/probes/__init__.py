"""Probes: the inputs at which a monitor looks, and the segments between them."""

from fold_lightning.probes.batches import BatchToInputs, predicted_classes, split_batch
from fold_lightning.probes.faces import FaceInputs, FaceProbes, FaceSubspace, check_face_arguments
from fold_lightning.probes.gathering import Pool, ProbeSource, finite_inputs, first_map_style, gather_inputs, user_probes
from fold_lightning.probes.of_a_run import Probes
from fold_lightning.probes.segments import Segments, draw_segments

__all__ = [
    "BatchToInputs",
    "FaceInputs",
    "FaceProbes",
    "FaceSubspace",
    "Pool",
    "ProbeSource",
    "Probes",
    "Segments",
    "check_face_arguments",
    "draw_segments",
    "finite_inputs",
    "first_map_style",
    "gather_inputs",
    "predicted_classes",
    "split_batch",
    "user_probes",
]
