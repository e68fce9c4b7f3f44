"""Output for TensorBoard alone: descriptions, histograms, figures, tables, embeddings, layout of charts, hyperparameters."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_BLOB_SEQUENCE,
    DATA_CLASS_SCALAR,
    DATA_CLASS_TENSOR,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from torch import Tensor
from torch.utils.tensorboard.summary import histogram, scalar

from fold_lightning import _tables
from fold_lightning.callbacks import hparams
from fold_lightning.callbacks.measures import MEASURES, Measure, MeasureResult
from fold_lightning.lightning_packages import in_both_packages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_HISTORY = 2**18
"""Maximum number of values kept for a figure of all measurements so far, 2 MiB; beyond it, every second measurement is
dropped."""

COMPRESSION = 3
"""Level of PNG compression, of 9: a map takes half the time of the usual 6, and 2 % more bytes."""

REGULARIZER_CHARTS = {
    "soft chi": ["regularizer/soft_chi"],
    "term and weight": ["regularizer/term", "regularizer/weight"],
}


class TensorBoard:
    """Writer to the TensorBoard loggers among the loggers of a run; without one, it does nothing.

    Args:
        loggers: All loggers of the run.
        draws: Whether figures are drawn.
        always: Whether to make figures, tables that take as long, and embeddings at every measurement; else figures and tables
            are made at the 1st, 2nd, 4th, 8th, ... measurement and at the end, and embeddings only at the end, because they are
            larger.
    """

    def __init__(self, loggers: Iterable[Logger], *, draws: bool, always: bool) -> None:
        boards = [logger for logger in loggers if isinstance(logger, in_both_packages(TensorBoardLogger))]
        self._boards = [cast(TensorBoardLogger, board) for board in boards]
        self._draws, self._always = draws, always
        self._undrawn: int | None = None
        self._is_embedded = False
        self._histories: dict[str, dict[int, Tensor]] = {}
        self._unnamed: list[tuple[TensorBoardLogger, dict[str, hparams.Value]]] = []
        for board in self._boards:
            board._default_hp_metric = False  # else a model that saves hyperparameters gets a curve "hp_metric" of -1

    def __contains__(self, logger: Logger) -> bool:
        return logger in self._boards

    def begin(self, hyperparameters: Mapping[str, Any], measures: Iterable[Measure], about: Mapping[str, Any]) -> None:
        """Write the monitor's hyperparameters, and the layout of charts.

        Args:
            hyperparameters: Arguments of the monitor, and its choices.
            measures: Measures of the run.
            about: Description of the measurement, for the Folding tab.
        """
        self._unnamed = []
        for board in self._boards:
            board.log_hyperparams({hparams.MONITOR: dict(hyperparameters)}, metrics={})
            save_hparams_to_yaml(os.path.join(board.log_dir, board.NAME_HPARAMS_FILE), board.hparams)
            flat = hparams.flat(dict(board.hparams))
            self._unnamed.append((board, flat))
            self._add(board, hparams.session_start(flat))
            self._add(board, table_summary(_tables.ABOUT, about))
        layout: dict[str, dict[str, list[Any]]] = {}
        for measure in measures:
            for title, tags in measure.charts.items():
                layout.setdefault(tags[0].split("/")[0], {})[title] = ["Multiline", list(tags)]
        layout["regularizer"] = {title: ["Multiline", tags] for title, tags in REGULARIZER_CHARTS.items()}
        for writer in self._writers():
            writer.add_custom_scalars(layout)

    def name_metrics(self, tags: Iterable[str], descriptions: Mapping[str, str]) -> None:
        """Name the metrics of the HPARAMS page, once after `begin`: some of the monitor's tags, then others.

        Args:
            tags: Tags of the user's validation; the monitor's among them are left out.
            descriptions: Tag -> description, of all tags that the run may log.
        """
        first = [tag for tag in hparams.FIRST_METRICS if tag in descriptions]
        metrics = [*first, *(tag for tag in tags if tag not in descriptions)]
        unnamed, self._unnamed = self._unnamed, []
        for board, hyperparameters in unnamed:
            self._add(board, hparams.experiment(hyperparameters, metrics, descriptions))

    def describe(self, scalars: Mapping[str, float], descriptions: Mapping[str, str], step: int) -> None:
        """Write scalars with their descriptions, which TensorBoard shows next to the curves."""
        for writer in self._writers():
            for tag, value in scalars.items():
                summary = _described(scalar(tag, value), "scalars", DATA_CLASS_SCALAR, descriptions.get(tag, ""))
                writer._get_file_writer().add_summary(summary, step)

    def write(self, results: Sequence[MeasureResult], number: int, step: int) -> None:
        """Write the histograms and tables of a measurement, and its figures and embeddings if they are due.

        Args:
            results: Results of the measurement.
            number: Number of the measurement, counted from 1.
            step: Step on the loggers' axis.
        """
        for writer in self._writers():
            for result in results:
                for tag, (values, bins) in result.histograms.items():
                    summary = histogram(tag, values.cpu().numpy(), list(bins))
                    writer._get_file_writer().add_summary(_described(summary, "histograms", DATA_CLASS_TENSOR), step)
        for summary in [table_summary(name, table) for result in results for name, table in result.tables.items()]:
            for board in self._boards:
                self._add(board, summary, step)
        self._remember(results, step)
        self._undrawn, self._is_embedded = step, False
        try:
            if self._always or number & (number - 1) == 0:
                self._draw(results)
        finally:
            if self._always:
                self._embed(results, step)

    def end(self, results: Sequence[MeasureResult], step: int) -> None:
        """Draw the last measurement unless it is drawn, and write its embeddings."""
        try:
            self._draw(results)
        finally:
            if not self._is_embedded:
                self._embed(results, step)

    def _remember(self, results: Sequence[MeasureResult], step: int) -> None:
        """Keep the values for figures of all measurements."""
        for result in results if self._draws and self._boards else ():
            for tag, (values, _) in result.growing_figures.items():
                self._histories[tag] = thin_history(self._histories.get(tag, {}) | {step: values.cpu()})

    def _embed(self, results: Sequence[MeasureResult], step: int) -> None:
        self._is_embedded = True
        for result in results if self._boards else ():
            for tag, embedding in result.embeddings().items():
                metadata = None if embedding.labels is None else embedding.labels.tolist()
                for writer in self._writers():
                    writer.add_embedding(_as_text(embedding.bits.cpu()), metadata=metadata, global_step=step, tag=tag)

    def _draw(self, results: Sequence[MeasureResult]) -> None:
        """Write figures, and tables that take as long; an error is raised only after all others are written."""
        step, self._undrawn = self._undrawn, None
        if step is None or not self._boards:
            return
        errors = []
        for make in [make for result in results for make in self._summaries(result)]:
            try:
                summary = make()
                for board in self._boards if summary is not None else ():
                    self._add(board, summary, step)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _summaries(self, result: MeasureResult) -> Iterator[Callable[[], Summary | None]]:
        """Yield functions that make the summaries of a result's slow tables and its figures."""
        for name, make in result.drawn_tables.items():
            yield partial(_summary_of, table_summary, name, make)
        if self._draws:
            for tag, draw in result.figures.items():
                yield partial(_summary_of, picture_summary, tag, draw)
            for tag, (_, draw_all) in result.growing_figures.items():
                yield partial(_summary_of, picture_summary, tag, partial(draw_all, self._histories[tag]))

    def finish(self) -> None:
        """Mark the run as finished."""
        for board in self._boards:
            self._add(board, hparams.session_end())

    def _add(self, board: TensorBoardLogger, summary: Summary, step: int = 0) -> None:
        board.experiment._get_file_writer().add_summary(summary, step)

    def _writers(self) -> list[Any]:
        return [board.experiment for board in self._boards]


def _summary_of(summarize: Callable[[str, Any], Summary], name: str, make: Callable[[], Any]) -> Summary | None:
    made = make()
    return None if made is None else summarize(name, made)


def table_summary(name: str, table: Mapping[str, Any]) -> Summary:
    """Return the summary of a table for the Folding tab, as bytes in a tensor."""
    plugin = SummaryMetadata.PluginData(plugin_name=_tables.PLUGIN)
    metadata = SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_TENSOR)
    tensor = TensorProto(dtype=DT_STRING, string_val=[_tables.pack(table)])
    return Summary(value=[Summary.Value(tag=f"{_tables.PREFIX}{name}", metadata=metadata, tensor=tensor)])


def picture_summary(tag: str, figure: Figure) -> Summary:
    """Return the summary of a figure, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # `savefig` would draw twice, in case there is a layout
    from PIL import Image

    canvas, file = FigureCanvasAgg(figure), io.BytesIO()
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.save(file, format="png", compress_level=COMPRESSION)
    width, height = picture.size
    image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=file.getvalue())
    return _described(Summary(value=[Summary.Value(tag=tag, image=image)]), "images", DATA_CLASS_BLOB_SEQUENCE)


def thin_history(history: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Drop every second measurement until at most `MAX_HISTORY` values or two measurements are left; keep the last one.

    Example:
        >>> import torch
        >>> list(thin_history({step: torch.zeros(2**16) for step in range(6)}))
        [1, 3, 5]
    """
    kept = dict(history)
    while len(kept) > 2 and sum(map(len, kept.values())) > MAX_HISTORY:
        kept = {step: kept[step] for step in sorted(kept)[::-2][::-1]}
    return kept


def _described(summary: Summary, plugin: str, data_class: int, description: str | None = None) -> Summary:
    """Add a description to a summary; None looks up that of a measure's histogram or figure."""
    (value,) = summary.value
    if description is None:
        description = next((cls.pictures[value.tag] for cls in MEASURES if value.tag in cls.pictures), "")
    value.metadata.summary_description = description
    value.metadata.plugin_data.plugin_name = plugin
    value.metadata.data_class = data_class  # without it TensorBoard's fast loading drops the description
    return summary


def _as_text(bits: Tensor) -> np.ndarray[Any, Any]:
    """Return bits (B, N) as lines of text (B, 1), because `add_embedding` converts numbers to text one by one, which is slow."""
    characters = np.full((len(bits), 2 * bits.shape[1]), ord("\t"), dtype=np.uint32)
    characters[:, ::2] = ord("0") + bits.numpy()
    characters[:, -1:] = 0  # the end of a string
    return characters.view(f"U{characters.shape[1]}")
