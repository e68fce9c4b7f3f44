"""Figures: their parts, by what matplotlib holds of them."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import BboxImage
from matplotlib.text import Annotation, Text
from torch import nn

import fold_lightning
from fold_lightning import SliceMap, Walks, hamming_distance, slice_map
from fold_lightning.figures import (
    plot_code_distances,
    plot_face_counts,
    plot_folding,
    plot_folding_matrix,
    plot_folding_over_steps,
    plot_message,
    plot_slice_map,
    plot_walk,
)
from fold_lightning.figures.class_colors import CLASS_COLORS, class_areas, color_numbers
from fold_lightning.figures.layout import text_width, wrapped
from fold_lightning.figures.matrix import cell_text
from fold_lightning.figures.style import SCALES
from helpers.networks import mlp


def a_map(**arguments: object) -> SliceMap:
    return slice_map(mlp(6, 10, 10, 3, seed=1), torch.randn(3, 6, generator=torch.Generator().manual_seed(1)), **arguments)


def parts(figure: Figure, kind: type) -> list:
    return [artist for artist in figure.axes[0].get_children() if isinstance(artist, kind)]


def drawn(figure: Figure) -> np.ndarray:
    """The pixels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=100)
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(530, 710, 4)


def thumbnails(figure: Figure) -> list[BboxImage]:
    """The pictures of inputs, which have as many columns as rows; the scale of confidence is a row."""
    images = [artist for artist in figure.get_children() if isinstance(artist, BboxImage)]
    return [image for image in images if len(image.get_array()) > 1]


def key_lines(figure: Figure) -> list[str]:
    """What stands on the right of a map."""
    return [text.get_text() for text in figure.texts]


def sectors(classes: int, features: int = 2) -> nn.Module:
    """A network of which each class is predicted in a sector of the first two features: the one that its direction lies in."""
    angles = torch.arange(classes, dtype=torch.float64) * 2 * torch.pi / classes + 0.1
    spread, score = nn.Linear(features, 4, bias=False).double(), nn.Linear(4, classes, bias=False).double()
    spread.weight.data = torch.zeros(4, features, dtype=torch.float64)
    spread.weight.data[:, :2] = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    directions = torch.stack([angles.cos(), angles.sin()], 1)
    score.weight.data = torch.stack([directions, -directions], 2).flatten(1)
    return nn.Sequential(nn.Flatten(), spread, nn.ReLU(), score)


def test_regions_have_the_colour_of_their_distance_from_the_first_input() -> None:
    found = a_map()
    figure = plot_slice_map(found)
    (patches,) = parts(figure, PolyCollection)
    home = found.find(found.marks)[0]
    assert torch.equal(torch.from_numpy(np.array(patches.get_array())), hamming_distance(found.codes, found.codes[home]))
    assert len(patches.get_paths()) == len(found) and patches.get_array()[home] == 0
    assert figure.axes[0].get_title() == f"{len(found)} regions of a plane through three inputs"
    assert figure.axes[1].get_ylabel() == "units that differ\nfrom the region of A"
    x0, x1, y0, y1 = found.window
    assert figure.axes[0].get_xlim() == (x0, x1) and figure.axes[0].get_ylim() == (y0, y1)


def test_the_map_fills_its_frame() -> None:
    pixels = drawn(plot_slice_map(a_map()))
    inside = pixels[40:430, 80:470, :3]
    assert (inside == 255).all(2).mean() < 0.05  # the halo of segments and the points alone are white


def test_classes_are_drawn_with_their_borders_and_a_legend() -> None:
    found = slice_map(sectors(3, 6), torch.randn(3, 6, generator=torch.Generator().manual_seed(1)))
    pieces = found.by_class()
    figure = plot_slice_map(found, color="class", class_names=["cat", "dog", "owl"])
    (patches,) = parts(figure, PolyCollection)
    assert len(patches.get_paths()) == len(pieces.polygons)
    regions, borders, *_ = figure.axes[0].lines
    ends = np.stack(borders.get_data(), 1).reshape(-1, 3, 2)
    assert (ends[:, :2] == pieces.borders.numpy()).all() and np.isnan(ends[:, 2]).all()
    assert len(regions.get_xdata()) == 3 * len(found.edges)
    seen = {["cat", "dog", "owl"][label] for label in pieces.predictions.tolist()}
    assert len(seen) > 1 and seen == {"cat", "dog", "owl"} & set(key_lines(figure))
    assert {"predicted", "confidence", "30% or less", "100%", "inputs"} <= set(key_lines(figure))
    colors = patches.get_facecolors()[:, :3]
    pale, sure = pieces.confidences.argmin(), pieces.confidences.argmax()
    assert colors[pale].sum() > colors[sure].sum()
    drawn(figure)


def test_inputs_are_marked_with_thumbnails_names_and_segments() -> None:
    model = nn.Sequential(nn.Flatten(), mlp(16, 6, 6, 2)).double()
    found = slice_map(model, torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    figure = plot_slice_map(found, names=["a", "b", ""])
    assert len(thumbnails(figure)) == 3
    assert [text.get_text() for text in parts(figure, Annotation)] == ["A", "B", "C"]
    assert key_lines(figure) == ["inputs", "A", "a", "B", "b", "C", "the third"]
    *segments, points = figure.axes[0].lines
    assert len(segments) == 3 and np.stack(points.get_data(), 1) == pytest.approx(found.marks.numpy())
    drawn(figure)
    assert not thumbnails(plot_slice_map(a_map()))
    assert len(thumbnails(plot_slice_map(a_map(), images=torch.rand(3, 3, 5, 5)))) == 3


NAMES = ("q", "W" * 12, "a name of many words, all short, that go", "onewordoffortycharacterswithoutanyspaces")


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{len(name)}-{name[:4].strip()}")
@pytest.mark.parametrize(
    "images", [pytest.param(None, id="plain", marks=pytest.mark.slow), pytest.param(torch.rand(3, 4, 4), id="thumbnails")]
)
@pytest.mark.parametrize(
    ("color", "classes"),
    [
        pytest.param("distance", 2, marks=pytest.mark.slow),
        pytest.param("class", 2, marks=pytest.mark.slow),
        ("class", 10),
        ("class", 100),
    ],
)
def test_no_text_of_a_map_overlaps_another_or_is_cut_off(
    color: str, classes: int, images: torch.Tensor | None, name: str
) -> None:
    found = slice_map(sectors(classes, 4), torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), window=3.0)
    names, class_names = (
        [f"{name},\ntaken for {name}"] * 3,
        [name[: 40 - len(str(label))] + str(label) for label in range(classes)],
    )
    figure = plot_slice_map(found, color=color, images=images, names=names, class_names=class_names)
    assert not overlapping(figure)
    if color == "class":
        listed = sum(text.startswith(name[:3]) for text in key_lines(figure)) - 3
        assert listed == min(classes, 9 if classes > 10 else 10)
        assert (f"{classes - 9} others, smaller" in key_lines(figure)) == (classes > 10)


def overlapping(figure: Figure) -> list[str]:
    """The texts of a figure that overlap others, the map, or its edges."""
    canvas, texts = FigureCanvasAgg(figure), list[Text]()
    with pytest.MonkeyPatch.context() as patch:
        draw = Text.draw
        patch.setattr(Text, "draw", lambda text, renderer: (draw(text, renderer), texts.append(text)))
        canvas.draw()
    texts = [text for text in texts if text.get_text() and not isinstance(text, Annotation)]
    assert len(texts) > 5
    boxes = np.array([text.get_window_extent(canvas.get_renderer()).extents for text in texts])
    boxes = np.vstack([boxes, figure.axes[0].get_window_extent().extents])
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    is_shared = (high - low > 1).all(2) & ~np.eye(len(boxes), dtype=bool)
    width, height = figure.bbox.size
    is_cut = (boxes[:, :2] < 0).any(1) | (boxes[:, 2] > width) | (boxes[:, 3] > height)
    wrong = (is_shared.any(1) | is_cut).nonzero()[0]
    return [*(texts[i].get_text() for i in wrong if i < len(texts))]


def test_each_class_of_a_map_has_its_colour_and_the_smallest_of_many_share_grey() -> None:
    assert color_numbers({3: 0.5, 13: 0.4, 0: 0.1}) == {3: 3, 13: 0, 0: 1}
    many = color_numbers({label: 1.0 / (label + 1) for label in range(12)})
    assert [many[label] for label in range(12)] == [*range(9), 9, 9, 9]
    found = slice_map(sectors(10), torch.tensor([[0.3, 0.2]]), window=1.0)
    pieces = found.by_class()
    areas = class_areas([polygon.numpy() for polygon in pieces.polygons], pieces.predictions.numpy())
    assert len(areas) == 10 and sum(areas.values()) == pytest.approx(4.0, rel=1e-12)


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
    *segments, points = figure.axes[0].lines
    assert len(segments) == 3 and len(points.get_xdata()) == 0 and not parts(figure, Annotation)
    assert "a (outside)" in key_lines(figure)
    assert figure.axes[1].get_ylabel() == "units that differ\nfrom the region in the middle"
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
    axis, _ = plot_folding_matrix(torch.zeros(3, 3), [long, "b", long + "!"]).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a_name_that_goe… (0)", "b", "a_name_that_goe… (2)"]
    (axis,) = plot_code_distances({long * 2: dict.fromkeys(("within", "between"), torch.tensor(0.5))}).axes
    assert len(axis.get_yticklabels()[0].get_text()) == 24
    with pytest.raises(ValueError, match="must hold at least one layer, got none"):
        plot_code_distances({})


def test_a_message_takes_the_place_of_a_figure() -> None:
    (text,) = plot_message("word " * 40).texts
    assert text.get_text().count("\n") == 2


@pytest.mark.parametrize("count", [2, 10, 40])
@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{len(name)}-{name[:4].strip()}")
def test_no_text_of_a_matrix_overlaps_another_or_is_cut_off(count: int, name: str) -> None:
    names = [f"{label}{name}" for label in range(count)]
    assert not overlapping(plot_folding_matrix(torch.rand(count, count), names))


@pytest.mark.parametrize(
    "length", [pytest.param(4, marks=pytest.mark.slow), pytest.param(400, marks=pytest.mark.slow), 123_456]
)
def test_no_text_of_a_walk_overlaps_another_or_is_cut_off(length: int) -> None:
    walks = Walks.from_codes(torch.eye(5).bool()[None])
    assert not overlapping(plot_walk(walks, 0))
    layers = {
        f"{'block.' * 9}{number}": dict.fromkeys(("within", "between"), torch.tensor(0.5)) for number in range(length % 97)
    }
    assert not overlapping(plot_code_distances(layers))
    assert not overlapping(plot_face_counts(torch.arange(length // 100, length // 100 + 70), bound=2 * length))
    assert not overlapping(plot_folding(torch.rand(min(length, 1000))))
    assert not overlapping(plot_folding_over_steps({0: torch.zeros(3), length: torch.rand(5)}))


def test_text_is_wrapped_at_words_and_ends_in_an_ellipsis() -> None:
    width = text_width("one two", 8.33)
    assert wrapped("one two three", width, 2) == ["one two", "three"]
    (line,) = wrapped("one two three", width, 1)
    assert "one two three".startswith(line[:-1]) and line.endswith("…") and len(line) > 4
    for name in NAMES:
        for lines in (1, 2, 3):
            found = wrapped(name, 0.8, lines)
            assert len(found) <= lines and all(text_width(line, 8.33) <= 0.8 for line in found)
            assert "".join(found).replace(" ", "") == name.replace(" ", "") or found[-1].endswith("…")
    assert wrapped("", 1.0) == []


def test_values_are_rounded_as_the_tab_rounds_those_of_the_log() -> None:
    """JavaScript's `toFixed` takes the larger of two equally near numbers, of the float32 in the log."""
    assert [cell_text(value) for value in (0.125, 0.115, 0.375, 1 / 3, 0.004, 0.9999)] == [
        ".13",
        ".12",
        ".38",
        ".33",
        ".00",
        "1.00",
    ]


def test_classes_and_chi_have_the_colours_and_scales_of_the_folding_tab() -> None:
    static = Path(fold_lightning.__file__).parent / "tensorboard_tab" / "static"
    drawn = {"map.js": ("CLASSES", CLASS_COLORS), "charts.js": ("SCALES", SCALES)}
    for file, (name, values) in drawn.items():
        written = re.search(rf"const {name} = (\[.*?\]);", (static / file).read_text())
        assert written is not None and json.loads(written[1]) == list(values)
