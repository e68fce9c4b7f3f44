"""Codes, walks and metrics go through files into fresh processes, and describe themselves in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics import Metric

from fold_lightning import (
    ActivationCodes,
    CodeDistances,
    DistinctCodes,
    FaceStatistics,
    GlobalFolding,
    SpaceFolding,
    UnitActivity,
    Walks,
    activation_codes,
    activation_regions,
    face_counts,
    region_graph,
    region_shapes,
    segment_walks,
    space_folding,
)
from helpers.networks import mlp
from helpers.processes import run_code


def some_metrics() -> dict[str, Metric]:
    codes, walks, labels = some_codes(), some_walks(), torch.arange(40) % 3
    metrics = {
        "distinct": (DistinctCodes(3), (codes, None, labels, labels == 0)),
        "distances": (CodeDistances(3, nearest=True), (codes, labels)),
        "activity": (UnitActivity(), (codes,)),
        "folding": (SpaceFolding("median"), (walks,)),
        **{within: (GlobalFolding(3, within), (walks, labels[:5], labels[5:10])) for within in ("max", "mean", "median")},
        "faces": (FaceStatistics(compute_on_cpu=True), (torch.tensor([3, 5]),)),
    }
    for name, (metric, batch) in metrics.items():
        if name == "distinct":
            metric.update(*batch[:2], labels=batch[2], correct=batch[3])
        else:
            metric.update(*batch)
    return {name: metric for name, (metric, _) in metrics.items()}


def some_codes() -> ActivationCodes:
    return activation_codes(mlp(3, 6, 5, 2), torch.randn(40, 3, generator=torch.Generator().manual_seed(0)))


def some_walks() -> Walks:
    start, end = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    return segment_walks(mlp(3, 6, 5, 2), start, end)


LOADING = """
import sys
import torch
{imports}
file = sys.argv[1]
loaded = torch.load(file, weights_only=True)
values = {{name: metric.compute() for name, metric in loaded["metrics"].items()}}
for metric in loaded["metrics"].values():
    metric.reset()
codes, walks = loaded["codes"], loaded["walks"]
torch.save({{"values": values, "layers": codes.layers, "bits": codes.bits, "walks": walks}}, file + ".out")
"""

IMPORTS = {
    "of the classes": "from fold_lightning import ActivationCodes, UnitActivity, Walks",
    "of the package, whose names are asked for": "import fold_lightning\nfold_lightning.UnitActivity, fold_lightning.Walks",
}


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("imports", IMPORTS)
def test_they_are_loaded_in_a_fresh_process_without_trusting_the_file(tmp_path: Path, imports: str) -> None:
    file, codes, walks, metrics = tmp_path / "saved.pt", some_codes(), some_walks(), some_metrics()
    torch.save({"codes": codes, "walks": walks, "metrics": metrics}, file)
    done = run_code(LOADING.format(imports=IMPORTS[imports]), str(file))
    assert done.returncode == 0, done.stderr
    found = torch.load(f"{file}.out", weights_only=True)
    assert torch.equal(found["bits"], codes.bits) and found["layers"] == codes.layers
    assert torch.equal(space_folding(found["walks"]), space_folding(walks))
    assert found["walks"].explain() == walks.explain() and torch.equal(found["walks"].codes(2), walks.codes(2))
    expected: dict[str, Any] = {name: metric.compute() for name, metric in metrics.items()}
    torch.testing.assert_close(found["values"], expected, rtol=0, atol=0)


def test_a_metric_goes_on_after_it_was_loaded(tmp_path: Path) -> None:
    metrics = some_metrics()
    torch.save(metrics, tmp_path / "saved.pt")
    loaded = torch.load(tmp_path / "saved.pt", weights_only=True)
    for metric in (loaded["activity"], metrics["activity"]):
        metric.update(some_codes())
    assert loaded["activity"].num_inputs == 80 and loaded["activity"].compute() == metrics["activity"].compute()


def test_they_describe_themselves_in_a_line() -> None:
    assert repr(some_codes()) == "ActivationCodes(inputs=40, units=11, layers={1: 6, 3: 5})"
    walks = some_walks()
    assert repr(walks) == f"Walks(segments=5, units=11, events={len(walks.unit)}, layers={{1: 6, 3: 5}}, exact=5, complete=5)"
    many = ActivationCodes(torch.zeros(2, 60).bool(), {f"body.{i}": slice(2 * i, 2 * i + 2) for i in range(30)})
    assert len(repr(many)) < 180 and repr(many).endswith("body.7: 2, 22 more})")
    said = {name: repr(metric) for name, metric in some_metrics().items()}
    assert (
        said["distances"] == "CodeDistances(num_classes=3, nearest=True)" and said["distinct"] == "DistinctCodes(num_classes=3)"
    )
    assert said["mean"] == "GlobalFolding(num_classes=3, within='mean', across='median')"
    assert (said["activity"], said["faces"]) == ("UnitActivity()", "FaceStatistics()")


@pytest.mark.slow
@pytest.mark.processes
def test_regions_graphs_and_shapes_are_loaded_in_a_fresh_process(tmp_path: Path) -> None:
    model, x = mlp(2, 6, 5, 2), torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    regions, graph = activation_regions(model, x), region_graph(model, x[:1])
    saved = {
        "regions": regions,
        "graph": graph,
        "shapes": region_shapes(regions, box=(-1, 1)),
        "slice": activation_regions(model, x, subspace=1),
    }
    assert graph.distance(0, 1) == 1  # which keeps what it made of the edges
    torch.save(saved, tmp_path / "saved.pt")
    code = (
        "import sys, torch\n"
        "from fold_lightning import ActivationRegions, RegionGraph, RegionShape, face_counts\n"
        "saved = torch.load(sys.argv[1], weights_only=True)\n"
        "graph, shapes = saved['graph'], saved['shapes']\n"
        "print(face_counts(saved['regions']).tolist(), graph.num_regions, graph.distance(0, 1), end=' ')\n"
        "print(shapes[0].volume, saved['slice'].dimension)\n"
    )
    done = run_code(code, str(tmp_path / "saved.pt"))
    assert done.returncode == 0, done.stderr
    expected = f"{face_counts(regions).tolist()} {graph.num_regions} 1 {saved['shapes'][0].volume} 1"
    assert done.stdout.strip() == expected
    assert repr(regions) == "ActivationRegions(regions=4, dimension=2, half_spaces=11, layers={1: 6, 3: 5}, slice=False)"
    assert repr(graph) == (
        f"RegionGraph(regions={graph.num_regions}, edges={len(graph.edges)}, features=2, layers={{1: 6, 3: 5}}, complete=True)"
    )
    assert repr(saved["shapes"][0]).startswith("RegionShape(vertices=") and len(repr(saved["shapes"][0])) < 100
