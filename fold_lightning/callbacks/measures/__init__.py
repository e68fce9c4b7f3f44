"""The measures of a monitor, one class per file.

A new measure is a new file here and a line in `MEASURES`. Its tags, their descriptions, its charts in TensorBoard and
the values that callbacks get before the first measurement derive from its class.
"""

import pkgutil

from fold_lightning.callbacks.measures.base import LAYER, PREFIXES, Measure, MeasureResult
from fold_lightning.callbacks.measures.sources import LeftOut, Sample, SeenCodes, SeenRegions, SeenSegments, Source, Sources

# Names instead of imports: a measure is one line, and its file can import from this package.
MEASURES: tuple[type[Measure], ...] = tuple(
    pkgutil.resolve_name(f"{__name__}.{measure}")
    for measure in (
        "folding:FoldingMeasure",
        "codes:DistinctCodesMeasure",
        "distances:CodeDistancesMeasure",
        "units:UnitsMeasure",
        "faces:FacesMeasure",
        "boundary_distances:BoundaryDistancesMeasure",
        "slice:SliceMeasure",
    )
)

__all__ = [
    "LAYER",
    "MEASURES",
    "PREFIXES",
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
