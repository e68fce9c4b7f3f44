"""The graph of all regions of a network of few inputs, joined where they share a face."""

from fold_lightning.region_graphs.graph import RegionGraph
from fold_lightning.region_graphs.search import region_graph

__all__ = ["RegionGraph", "region_graph"]
