"""The measures of a run, grouped by their sources."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from fold_lightning.callbacks.distributed import Processes
from fold_lightning.callbacks.measures import LAYER, MEASURES, LeftOut, Measure, MeasureResult, Source, Sources
from fold_lightning.probes import device_of


def possible_tags() -> dict[str, str]:
    """Return the tags that any run may log, except those of layers, with their descriptions."""
    return {tag: text for cls in MEASURES for tag, text in cls.tags.items() if LAYER not in tag}


class MeasureSet:
    """Measures of a run.

    Args:
        processes: Processes that share the rows of each source.

    Attributes:
        by_source: Source -> its measures; empty before `create`.
    """

    def __init__(self, processes: Processes) -> None:
        self.by_source: dict[Source, list[Measure]] = {}
        self._processes = processes
        self._seconds: dict[Source, float] = {}

    def create(self, model: LightningModule, sources: Sources) -> None:
        """Create the measures of the run, except those that this network does not allow."""
        self.by_source = {}
        for cls in MEASURES:
            if (measure := cls.create(sources)) is not None:
                self.by_source.setdefault(measure.source, []).append(measure)
        for source in list(self.by_source):
            try:
                with self._processes.raise_together():
                    source.check(model)
            except LeftOut as reason:
                tags = [tag for measure in self.by_source.pop(source) for tag in (*measure.tags, *measure.pictures)]
                groups = dict.fromkeys(f"{tag.partition('/')[0]}/*" for tag in tags)
                rank_zero_info(f"fold_lightning leaves out {' and '.join(groups)}. {reason}")

    def all(self) -> list[Measure]:
        """Return all measures."""
        return [measure for measures in self.by_source.values() for measure in measures]

    def descriptions(self) -> dict[str, str]:
        """Return the tags that this run may log, with their descriptions."""
        return {tag: text for measure in self.all() for tag, text in measure.available_tags().items()}

    def run(self, model: LightningModule) -> Iterator[MeasureResult | Exception]:
        """Yield the result of each measure, or the error that prevented it."""
        self._seconds = {}
        for source, measures in self.by_source.items():
            begin = time.perf_counter()
            yield from self._results_of(source, measures, model)
            self._seconds[source] = time.perf_counter() - begin

    def describe_seconds(self) -> str:
        """Describe how long each source took at the last measurement."""
        return ", ".join(
            f"{source.num_rows} {source.noun} at {seconds / max(1, source.num_rows):.2g} s each"
            for source, seconds in self._seconds.items()
        )

    def _results_of(
        self, source: Source, measures: Sequence[Measure], model: LightningModule
    ) -> Iterator[MeasureResult | Exception]:
        """Yield the result of each measure of a source, or the error that prevented it; processes share its rows."""
        errors: dict[Measure, Exception] = {}
        for measure in measures:
            measure.reset(device_of(model))
        try:
            for seen in source.observe(model, self._processes.split_rows(source.num_rows)):
                for measure in measures:
                    if measure not in errors:
                        try:
                            measure.update(seen)
                        except Exception as error:
                            errors[measure] = error
        except Exception as error:
            errors = dict.fromkeys(measures, error)
        for measure in measures:
            try:
                with self._processes.raise_together():
                    if measure in errors:
                        raise errors[measure]
                result: MeasureResult | Exception = measure.compute(model)
            except Exception as error:
                result = error
            yield result
