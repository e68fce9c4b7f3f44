"""The measures of a monitor, one class per file.

A new measure is a new file here, with an import and an entry in `MEASURES`. Its tags, their descriptions, its charts in
TensorBoard and the values that callbacks get before the first measurement derive from its class.
"""

from fold_lightning.callbacks.measures.base import LAYER, Measure, MeasureResult
from fold_lightning.callbacks.measures.codes import DistinctCodesMeasure
from fold_lightning.callbacks.measures.distances import CodeDistancesMeasure
from fold_lightning.callbacks.measures.distances_to_borders import BorderDistancesMeasure
from fold_lightning.callbacks.measures.faces import FacesMeasure
from fold_lightning.callbacks.measures.folding import FoldingMeasure
from fold_lightning.callbacks.measures.slice import SliceMeasure
from fold_lightning.callbacks.measures.sources import LeftOut, Sample, SeenCodes, SeenRegions, SeenSegments, Source, Sources
from fold_lightning.callbacks.measures.units import UnitsMeasure

MEASURES: tuple[type[Measure], ...] = (
    FoldingMeasure,
    DistinctCodesMeasure,
    CodeDistancesMeasure,
    UnitsMeasure,
    FacesMeasure,
    BorderDistancesMeasure,
    SliceMeasure,
)

__all__ = [
    "LAYER",
    "MEASURES",
    "LeftOut",
    "Measure",
    "MeasureResult",
    "Sample",
    "SeenCodes",
    "SeenRegions",
    "SeenSegments",
    "Source",
    "Sources",
]
