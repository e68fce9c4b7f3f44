"""Figures: their parts, by what matplotlib holds of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox
from torch import nn

from fold_lightning import SliceMap, Walks, hamming_distance, slice_map
from fold_lightning.figures import (
    plot_code_distances,
    plot_folding_matrix,
    plot_folding_over_steps,
    plot_message,
    plot_slice_map,
    plot_walk,
)
from helpers.networks import mlp


def a_map(**arguments: object) -> SliceMap:
    return slice_map(mlp(6, 10, 10, 3, seed=1), torch.randn(3, 6, generator=torch.Generator().manual_seed(1)), **arguments)


def parts(figure: Figure, kind: type) -> list:
    return [artist for artist in figure.axes[0].get_children() if isinstance(artist, kind)]


def drawn(figure: Figure) -> np.ndarray:
    """The pixels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=100)
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(520, 600, 4)


def test_regions_have_the_colour_of_their_distance_from_the_first_input() -> None:
    found = a_map()
    figure = plot_slice_map(found)
    (patches,) = parts(figure, PolyCollection)
    home = found.find(found.marks)[0]
    assert torch.equal(torch.from_numpy(np.array(patches.get_array())), hamming_distance(found.codes, found.codes[home]))
    assert len(patches.get_paths()) == len(found) and patches.get_array()[home] == 0
    assert figure.axes[0].get_title() == f"{len(found)} regions of a plane through three inputs"
    assert figure.axes[1].get_ylabel() == "units that differ from the first input's region"
    x0, x1, y0, y1 = found.window
    assert figure.axes[0].get_xlim() == (x0, x1) and figure.axes[0].get_ylim() == (y0, y1)


def test_the_map_fills_its_frame() -> None:
    pixels = drawn(plot_slice_map(a_map()))
    inside = pixels[40:430, 80:470, :3]
    assert (inside == 255).all(2).mean() < 0.05  # the halo of segments and the points alone are white


def test_classes_are_drawn_with_their_borders_and_a_legend() -> None:
    found = a_map()
    pieces = found.by_class()
    figure = plot_slice_map(found, color="class", class_names=["cat", "dog", "owl"])
    (patches,) = parts(figure, PolyCollection)
    regions, borders = parts(figure, LineCollection)
    assert len(patches.get_paths()) == len(pieces.polygons)
    assert len(regions.get_segments()) == len(found.edges) and len(borders.get_segments()) == len(pieces.borders)
    predicted, confidence = figure.legends
    assert {text.get_text() for text in predicted.get_texts()} <= {"cat", "dog", "owl"}
    assert [text.get_text() for text in confidence.get_texts()] == ["30% or less", "65%", "100%"]
    colors = patches.get_facecolors()[:, :3]
    pale, sure = pieces.confidences.argmin(), pieces.confidences.argmax()
    assert colors[pale].sum() > colors[sure].sum()
    drawn(figure)


def test_inputs_are_marked_with_thumbnails_names_and_segments() -> None:
    model = nn.Sequential(nn.Flatten(), mlp(16, 6, 6, 2)).double()
    found = slice_map(model, torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    figure = plot_slice_map(found, names=["a", "b", "c"])
    assert len(parts(figure, AnnotationBbox)) == 3
    assert len(figure.axes[0].lines) == 3 + 3  # segments and points
    drawn(figure)
    assert len(parts(plot_slice_map(a_map()), AnnotationBbox)) == 0
    assert len(parts(plot_slice_map(a_map(), images=torch.rand(3, 3, 5, 5)), AnnotationBbox)) == 3


def test_long_and_odd_names_stay_in_the_picture_as_they_are() -> None:
    odd = ["$\\nocommand$ & <b>", "a name that goes on and on for many characters" * 2, "name" * 40]
    figure = plot_slice_map(a_map(), color="class", names=odd, class_names=odd)
    pixels = drawn(figure)[..., :3]
    assert (pixels[:, :3] == 255).all() and (pixels[:, -3:] == 255).all(), "something is cut off"
    figure = plot_folding_matrix(torch.zeros(3, 3), odd)
    figure.savefig(io.BytesIO())
    assert figure.axes[0].get_yticklabels()[0].get_text() == r"\$\nocommand\$ & <b>"


def test_inputs_outside_the_window_are_not_marked() -> None:
    found = a_map(window=(100.0, 101.0, 0.0, 1.0))
    figure = plot_slice_map(found, names=["a", "b", "c"])
    assert len(parts(figure, AnnotationBbox)) == 0 and len(figure.axes[0].lines) == 3
    assert figure.axes[1].get_ylabel() == "units that differ from the region in the middle"
    assert figure.axes[0].get_xlim() == (100.0, 101.0)
    assert figure.axes[0].get_title().endswith(" of a plane, zoomed on one of three inputs")
    assert (
        figure.axes[0].get_title() == f"{len(found)} region{'s' * (len(found) != 1)} of a plane, zoomed on one of three inputs"
    )


@pytest.mark.parametrize("half_width", [1.0, 1e-2, 1e-5])
def test_what_stands_beside_a_zoomed_map_stays_in_the_picture(half_width: float) -> None:
    found = slice_map(mlp(2, 4, 2), torch.tensor([[-123.456, 123.456]]), window=half_width)
    pixels = drawn(plot_slice_map(found))[..., :3]
    border = np.concatenate([pixels[:3].reshape(-1, 3), pixels[-3:].reshape(-1, 3), pixels[:, :3].reshape(-1, 3)])
    assert (border == 255).all(), "something is cut off"


def test_one_region_is_drawn_too() -> None:
    figure = plot_slice_map(slice_map(mlp(2, 4, 2), torch.zeros(1, 2), window=1e-9))
    assert figure.axes[0].get_title() == "1 region of a plane around an input"
    drawn(figure)


def test_a_map_without_scores_has_no_classes_to_draw() -> None:
    found = slice_map(mlp(2, 4, 1), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="This map has no scores of classes"):
        plot_slice_map(found, color="class")
    with pytest.raises(ValueError, match="`color` must be one of 'distance', 'class', got 'faces'"):
        plot_slice_map(found, color="faces")  # type: ignore[arg-type]


def test_a_walk_has_the_straight_line_of_one_that_does_not_fold_and_the_gap_is_chi() -> None:
    bits = torch.tensor([[[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1]]]).bool()
    upper, lower = plot_walk(Walks.from_codes(bits), 0).axes
    unfolded, walk, farthest = upper.lines
    assert unfolded.get_xydata().tolist() == [[0, 0], [1, 4]]
    assert farthest.get_ydata()[0] == 2 == (1 - 1 / 2) * unfolded.get_ydata()[1]
    assert walk.get_ydata()[1:].tolist() == [0, 1, 2, 1, 2]
    assert lower.lines[0].get_ydata()[1:].tolist() == pytest.approx([0, 0, 0, 1 / 3, 1 / 2])
    assert upper.get_title() == "5 regions, chi = 1 - 2 / 4 = 0.500"
    nowhere = plot_walk(Walks.from_codes(torch.zeros(1, 3, 4, dtype=torch.bool)), 0).axes
    assert nowhere[0].get_title() == "1 region, chi = 0.000"


def test_folding_over_steps_has_its_mean_within_its_ranges() -> None:
    random = np.random.default_rng(0)
    chi = {step: torch.from_numpy(random.random(40) / 2) for step in (30, 0, 10)}
    (axis,) = plot_folding_over_steps(chi, xlabel="epoch").axes
    (mean,) = axis.lines
    assert mean.get_xdata().tolist() == [0, 10, 30] and axis.get_xlabel() == "epoch"
    assert mean.get_ydata().tolist() == pytest.approx([chi[step].mean().item() for step in (0, 10, 30)])
    outer, _, inner = (band.get_paths()[0].get_extents() for band in axis.collections)
    assert (outer.y0, outer.y1) == pytest.approx(
        (min(map(torch.min, chi.values())).item(), max(map(torch.max, chi.values())).item())
    )
    assert outer.y0 < inner.y0 < mean.get_ydata().min() and mean.get_ydata().max() < inner.y1 < outer.y1
    with pytest.raises(ValueError, match="must hold at least one step, got none"):
        plot_folding_over_steps({})
    with pytest.raises(ValueError, match="must hold at least one segment, got none"):
        plot_folding_over_steps({0: torch.empty(0)})
    (once,) = plot_folding_over_steps({5: torch.tensor([0.0, 0.4])}).axes  # which has no band to see
    assert len(once.lines) == 2


def test_few_pairs_of_many_classes_are_squares_that_can_be_seen() -> None:
    matrix = torch.full((100, 100), torch.nan)
    matrix[3, 70], matrix[99, 0] = 0.4, 0.0
    axis, _ = plot_folding_matrix(matrix).axes
    (squares,) = axis.collections
    assert squares.get_offsets().tolist() == [[70, 3], [0, 99]]
    assert squares.get_array().tolist() == pytest.approx([0.4, 0.0]) and squares.get_sizes().min() >= 16
    assert len(axis.get_xticklabels()) <= 14 and not axis.images
    assert plot_folding_matrix(torch.rand(100, 100)).axes[0].images


def test_names_of_classes_and_layers_are_shortened() -> None:
    long = "a_name_that_goes_on_and_on_and_on"
    axis, _ = plot_folding_matrix(torch.zeros(2, 2), [long, "b"]).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a_name_that_goes_on…", "b"]
    (axis,) = plot_code_distances({long * 2: dict.fromkeys(("within", "between"), torch.tensor(0.5))}).axes
    assert len(axis.get_yticklabels()[0].get_text()) == 24
    with pytest.raises(ValueError, match="must hold at least one layer, got none"):
        plot_code_distances({})


def test_a_message_takes_the_place_of_a_figure() -> None:
    (text,) = plot_message("word " * 40).texts
    assert text.get_text().count("\n") == 2
