"""Maps of activation regions: every region of a plane's window, as an exact polygon.

The window is cut layer by layer. A network is continuous, so at a vertex each unit has one value, whichever face asks; where it is
positive at one end of an edge and negative at the other, its line crosses the edge, and where it crosses two edges of a face, it
cuts the face. All regions come out, for the time of a few forward passes over their vertices.
"""

from fold_lightning.slice_maps.maps import slice_map
from fold_lightning.slice_maps.planes import InputsOnALine
from fold_lightning.slice_maps.result import SliceMap
from fold_lightning.slice_maps.subdivision import TooManyRegions

__all__ = ["InputsOnALine", "SliceMap", "TooManyRegions", "slice_map"]
