"""Summaries: what the monitor logs of walks and codes, each tag in one place."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch import Tensor
from torch.utils.tensorboard.summary import Summary, scalar

from fold_lightning.event_files import shown_until
from fold_lightning.figures import SliceRegions, plot_folding_matrix, plot_slice, plot_walk
from fold_lightning.folding import PerSegment, summarize_folding
from fold_lightning.metrics import DistinctCodes, FaceStatistics
from fold_lightning.twins import both
from fold_lightning.walks import Walks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHI_MEAN = "folding/chi_mean"
CHI_MEDIAN = "folding/chi_median"
CHI_MAX = "folding/chi_max"
FRACTION = "folding/fraction"
REGIONS = "folding/regions"
EXACT = "folding/exact"
COMPLETE = "folding/complete"
PHI = "folding/phi"
SEGMENTS = "folding/segments"
SECONDS = "folding/seconds"
LAYER = "folding/layer/"
CHI_HISTOGRAM = "folding/chi_histogram"
WALK = "folding/walk"
PHI_MATRIX = "folding/phi_matrix"
DISTINCT = "codes/distinct"
DISTINCT_CORRECT = "codes/distinct_correct"
DISTINCT_FRACTION = "codes/distinct_fraction"
DISTINCT_LAYER = "codes/layer/"
CODES_INPUTS = "codes/inputs"
EMBEDDING = "codes"
FACES_MEAN = "faces/mean"
FACES_MAX = "faces/max"
FACES_BOUND = "faces/bound"
FACES_INPUTS = "faces/inputs"
FACES_HISTOGRAM = "faces/histogram"
RANDOM_FACES_MEAN = "faces/random_mean"
RANDOM_FACES_MAX = "faces/random_max"
RANDOM_FACES_HISTOGRAM = "faces/random_histogram"
SLICE = "regions/slice"
REGULARIZER_TERM = "regularizer/term"
REGULARIZER_WEIGHT = "regularizer/weight"
SOFT_CHI = "regularizer/soft_chi"

MEASURED = ("folding/", "codes/", "faces/")
"""How the tags begin of what a measurement finds."""

LAYOUT = {
    "folding": {
        "chi": ["Multiline", [CHI_MEAN, CHI_MEDIAN, CHI_MAX, FRACTION, PHI]],
        "chi of each layer": ["Multiline", [f"{LAYER}.*"]],
        "regions on a segment": ["Multiline", [REGIONS]],
        "verified": ["Multiline", [EXACT, COMPLETE]],
    },
    "codes": {
        "distinct codes": ["Multiline", [f"{DISTINCT}$", DISTINCT_CORRECT]],
        "distinct codes of each layer": ["Multiline", [f"{DISTINCT_LAYER}.*"]],
        "distinct codes per input": ["Multiline", [DISTINCT_FRACTION]],
    },
    "faces": {
        "faces of a region, and the bound of their mean over all regions": [
            "Multiline",
            [FACES_MEAN, RANDOM_FACES_MEAN, FACES_BOUND],
        ],
        "most faces of a region": ["Multiline", [FACES_MAX, RANDOM_FACES_MAX]],
    },
    "regularizer": {
        "soft chi": ["Multiline", [SOFT_CHI]],
        "term and weight": ["Multiline", [REGULARIZER_TERM, REGULARIZER_WEIGHT]],
    },
}
"""What TensorBoard's custom scalars show side by side; it takes tags as regular expressions that may match a part."""


CHI_BINS = [i / 50 for i in range(51)]

EMBEDDED_BITS = 2**21
"""Bits of an embedding, which TensorBoard keeps as text; of wide networks fewer inputs are taken."""


def folding_scalars(measures: PerSegment, phi: Tensor | None = None) -> dict[str, float]:
    """The scalars of some segments, tag by tag; `phi` is their folding between classes, where there are some."""
    scalars = {
        CHI_MEAN: summarize_folding(measures.chi, "mean"),
        CHI_MEDIAN: summarize_folding(measures.chi, "median"),
        CHI_MAX: summarize_folding(measures.chi, "max"),
        FRACTION: summarize_folding(measures.chi, "fraction"),
        REGIONS: measures.regions.mean(),
        EXACT: measures.exact.mean(),
        COMPLETE: measures.complete.mean(),
        SEGMENTS: torch.tensor(len(measures.chi)),
    }
    if phi is not None:
        scalars[PHI] = phi
    scalars |= {LAYER + layer: summarize_folding(chi, "mean") for layer, chi in measures.by_layer.items()}
    return {tag: float(value) for tag, value in scalars.items() if not value.isnan()}


def codes_scalars(
    distinct: DistinctCodes, correct: DistinctCodes | None = None, num_inputs: int | None = None
) -> dict[str, float]:
    """The scalars of the codes of some inputs, and of those of them that are classified correctly.

    Args:
        distinct: Of all of them.
        correct: Of those that are.
        num_inputs: How many they are, if not as many as were counted.
    """
    count, inputs = distinct.compute(), distinct.all_inputs() if num_inputs is None else torch.tensor(num_inputs)
    scalars = {DISTINCT: count, DISTINCT_FRACTION: count / inputs.clamp(min=1), CODES_INPUTS: inputs}
    if correct is not None:
        scalars[DISTINCT_CORRECT] = correct.compute()
    scalars |= {DISTINCT_LAYER + layer: value for layer, value in distinct.per_layer().items()}
    return {tag: float(value) for tag, value in scalars.items()}


def faces_scalars(data: Tensor | None, random: Tensor | None, dimension: int) -> dict[str, float]:
    """The scalars of the faces of regions around inputs.

    Args:
        data: int64 (B,), how many each has around data; None if they are not counted.
        random: The same around random inputs.
        dimension: d of the regions.
    """
    most_inputs = max(len(counts) for counts in (data, random) if counts is not None)
    scalars = {FACES_BOUND: 2.0 * dimension, FACES_INPUTS: float(most_inputs)}
    for counts, mean, most in ((data, FACES_MEAN, FACES_MAX), (random, RANDOM_FACES_MEAN, RANDOM_FACES_MAX)):
        if counts is not None:
            statistics = FaceStatistics(sync_on_compute=False)
            statistics.update(counts.cpu())
            values = statistics.compute()
            scalars |= {mean: float(values["mean"]), most: float(values["max"])}
    return scalars


def unmeasured(*, folding: bool, codes: bool, faces: bool) -> dict[str, float]:
    """NaN for each tag that callbacks may wait for, whatever the network is."""
    tags = [CHI_MEAN, CHI_MEDIAN, CHI_MAX, FRACTION, REGIONS, EXACT, COMPLETE, SEGMENTS, PHI] * folding
    tags += [DISTINCT, DISTINCT_FRACTION, CODES_INPUTS, DISTINCT_CORRECT] * codes
    tags += [FACES_MEAN, FACES_MAX, FACES_BOUND, FACES_INPUTS] * faces
    return dict.fromkeys([*tags, SECONDS], math.nan)


def write_start(loggers: Iterable[Logger], scalars: dict[str, float], faces: str | None) -> None:
    """Logs what was measured before training, at step 0; in TensorBoard with what the faces are those of, as their description.

    Args:
        loggers: All loggers of a run.
        scalars: Tag by tag.
        faces: Of what the faces are counted; None if they are not.
    """
    described = {tag: value for tag, value in scalars.items() if tag.startswith("faces/") and faces is not None}
    for logger in loggers:
        takes_words = isinstance(logger, both(TensorBoardLogger))
        logger.log_metrics({tag: value for tag, value in scalars.items() if not takes_words or tag not in described}, step=0)
    for writer in _tensorboard_writers(loggers):
        for tag, value in described.items():
            summary = scalar(tag, value)
            summary.value[0].metadata.summary_description = faces
            summary.value[0].metadata.plugin_data.plugin_name = "scalars"
            writer._get_file_writer().add_summary(summary, 0)


def write_end(loggers: Iterable[Logger], scalars: dict[str, float], step: int) -> None:
    """Logs what was measured when training was over, tag by tag."""
    for logger in loggers:
        logger.log_metrics(scalars, step=step)


def write_settings(loggers: Iterable[Logger], settings: dict[str, Any]) -> None:
    """Adds a monitor's settings to the hyperparameters of a run."""
    for logger in loggers:
        if not isinstance(logger, both(TensorBoardLogger)):
            logger.log_hyperparams(settings)
    for board in _tensorboards(loggers):
        board.log_hyperparams(settings, metrics={})  # or a curve "hp_metric" would come with them
        file = os.path.join(board.log_dir, board.NAME_HPARAMS_FILE)  # which was written before training
        save_hparams_to_yaml(file, board.hparams)


def write_distributions(
    loggers: Iterable[Logger], chi: Tensor | None, faces: tuple[Tensor | None, Tensor | None] | None, step: int
) -> None:
    """How chi of the segments and the numbers of faces are distributed, where a logger takes histograms.

    Args:
        loggers: All loggers of a run.
        chi: float64 (S,), in [0, 1).
        faces: int64, how many each region around data has, and around random inputs; None for what is not counted.
        step: Where on TensorBoard's axis.
    """
    for writer in _tensorboard_writers(loggers):
        if chi is not None:
            writer.add_histogram(CHI_HISTOGRAM, chi.cpu().numpy(), step, bins=CHI_BINS)
        for counts, tag in zip(faces or (), (FACES_HISTOGRAM, RANDOM_FACES_HISTOGRAM), strict=False):
            if counts is not None:
                writer.add_histogram(tag, counts.cpu().numpy(), step, bins=_whole_bins(counts))


def _whole_bins(counts: Tensor) -> list[float]:
    """The edges of bins that each hold as many whole numbers, at most 64 bins."""
    least, most = int(counts.min()), int(counts.max())
    width = -(-(most - least + 1) // 64)
    return [least - 0.5 + width * i for i in range((most - least) // width + 2)]


def write_restart(loggers: Iterable[Logger], step: int, saved_at: float) -> None:
    """Tells TensorBoard that a run goes on from a checkpoint: what was logged from a step on, before it broke off, is no more.

    A point that was there when the checkpoint was saved stays: where one has a later step, as on another axis, all up to that do.

    Args:
        loggers: All loggers of a run.
        step: Where it goes on.
        saved_at: When the checkpoint was, in s since 1970.
    """
    for board in _tensorboards(loggers):
        first = max(step, shown_until(board.log_dir, saved_at) + 1)
        for _ in range(2):  # the first that a reader meets may be taken for the beginning of all
            restart = Event(session_log=SessionLog(status=SessionLog.START))
            board.experiment._get_file_writer().add_event(restart, first)


def write_layout(loggers: Iterable[Logger]) -> None:
    """Tells TensorBoard which curves belong together."""
    for writer in _tensorboard_writers(loggers):
        writer.add_custom_scalars(LAYOUT)


def write_walk(loggers: Iterable[Logger], walk: Walks, step: int) -> None:
    """A picture of one walk, where a logger takes it."""
    for writer in _tensorboard_writers(loggers):
        _write_figure(writer, WALK, plot_walk(walk, 0), step)


def write_matrix(loggers: Iterable[Logger], values: Tensor, classes: Tensor, step: int) -> None:
    """A picture of the folding between classes (C, C), where a logger takes it."""
    for writer in _tensorboard_writers(loggers):
        _write_figure(writer, PHI_MATRIX, plot_folding_matrix(values, list(map(str, classes.tolist()))), step)


def write_slice(loggers: Iterable[Logger], regions: SliceRegions, step: int) -> None:
    """A picture of the regions around an input, where a logger takes it."""
    polygons, distances, extent = regions
    for writer in _tensorboard_writers(loggers):
        _write_figure(writer, SLICE, plot_slice(polygons, distances, extent=extent), step)


def _write_figure(writer: Any, tag: str, figure: Figure, step: int) -> None:
    """Adds a figure as an image, as `add_figure` does; that takes twice as long to convert it as to draw it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas, png = FigureCanvasAgg(figure), BytesIO()
    canvas.print_png(png, pil_kwargs={"compress_level": 1})
    width, height = canvas.get_width_height()
    image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png.getvalue())
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def write_embedding(loggers: Iterable[Logger], bits: Tensor, labels: Tensor | None, step: int) -> None:
    """The codes bool (B, N) of some inputs as points of TensorBoard's projector, labelled by their classes.

    TensorBoard keeps them as text, of at most 2^21 bits (4 MiB), which takes less than 50 ms to write; of wide networks fewer inputs
    are taken.
    """
    count = min(len(bits), max(2, EMBEDDED_BITS // max(1, bits.shape[1])))
    metadata = None if labels is None else labels[:count].tolist()
    for writer in _tensorboard_writers(loggers):
        writer.add_embedding(_as_text(bits[:count].cpu()), metadata=metadata, global_step=step, tag=EMBEDDING)


def _as_text(bits: Tensor) -> np.ndarray[Any, Any]:
    """Bits (B, N) as lines (B, 1) of a table, for `add_embedding` turns what it is given to text number by number."""
    characters = np.full((len(bits), 2 * bits.shape[1]), ord("\t"), dtype=np.uint32)
    characters[:, ::2] = ord("0") + bits.numpy()
    characters[:, -1:] = 0  # the end of a string
    return characters.view(f"U{characters.shape[1]}")


def draws(loggers: Iterable[Logger]) -> bool:
    """Whether some logger takes figures and embeddings."""
    return bool(_tensorboards(loggers))


def _tensorboards(loggers: Iterable[Logger]) -> list[TensorBoardLogger]:
    return [cast(TensorBoardLogger, logger) for logger in loggers if isinstance(logger, both(TensorBoardLogger))]


def _tensorboard_writers(loggers: Iterable[Logger]) -> list[Any]:
    return [logger.experiment for logger in _tensorboards(loggers)]
