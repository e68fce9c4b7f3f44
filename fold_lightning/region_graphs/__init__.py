"""Region graphs of networks with few inputs: all activation regions, with an edge for each shared face."""

from fold_lightning.region_graphs.graph import RegionGraph
from fold_lightning.region_graphs.search import region_graph

__all__ = ["RegionGraph", "region_graph"]
