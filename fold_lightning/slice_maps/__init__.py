"""Maps of activation regions: every region in a window of a plane, as an exact polygon.

The window is cut layer by layer. A network is continuous, so a unit has one value at a vertex, the same for all polygons there. A
unit's zero line crosses an edge if its values at the two ends have opposite signs, and cuts a polygon if it crosses two of its edges.
This finds all regions with one or two forward passes per layer over the vertices.
"""

from fold_lightning.slice_maps.maps import slice_map
from fold_lightning.slice_maps.planes import InputsOnALine
from fold_lightning.slice_maps.result import SliceMap
from fold_lightning.slice_maps.subdivision import TooManyRegions

__all__ = ["InputsOnALine", "SliceMap", "TooManyRegions", "slice_map"]
