"""All regions of a network of few inputs, and which of them share a face."""

from fold_lightning.region_graphs.graph import RegionGraph
from fold_lightning.region_graphs.search import region_graph

__all__ = ["RegionGraph", "region_graph"]
