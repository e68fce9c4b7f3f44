"""Probes: the inputs that a monitor measures, and the segments between them."""

from fold_lightning.probes.batch_transfer import HookCopy, batch_transfer
from fold_lightning.probes.batches import BatchToInputs, NoInputs, split_batch
from fold_lightning.probes.classes import name_of_class, num_classes_of, predicted_classes
from fold_lightning.probes.faces import FaceProbes, FaceSubspace, check_face_subspace
from fold_lightning.probes.loaders import flat_loaders
from fold_lightning.probes.model_input import ModelInput
from fold_lightning.probes.probe_set import ProbeSet
from fold_lightning.probes.segments import BetweenClasses, Segments, class_segments, draw_segments
from fold_lightning.probes.source import ProbeSource
from fold_lightning.probes.trials import device_of
from fold_lightning.probes.user_probes import user_probes

__all__ = [
    "BatchToInputs",
    "BetweenClasses",
    "FaceProbes",
    "FaceSubspace",
    "HookCopy",
    "ModelInput",
    "NoInputs",
    "ProbeSet",
    "ProbeSource",
    "Segments",
    "batch_transfer",
    "check_face_subspace",
    "class_segments",
    "device_of",
    "draw_segments",
    "flat_loaders",
    "name_of_class",
    "num_classes_of",
    "predicted_classes",
    "split_batch",
    "user_probes",
]
