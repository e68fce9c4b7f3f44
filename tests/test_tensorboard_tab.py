"""The Folding tab: what the monitor writes for it, what `read_log` and a real server give back, and what a browser shows."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from fold_lightning import FoldingMonitor, read_log, slice_map
from fold_lightning._tables import TABLE_BYTES, limit_size, pack, unpack
from fold_lightning.callbacks.measures import map_table as map_tables
from fold_lightning.callbacks.measures.map_table import MAP_TABLE_BYTES, map_table
from fold_lightning.callbacks.measures.slice import MOST_REGIONS
from fold_lightning.probes import ProbeSource

EPOCHS, CLASSES = 3, 3

EVIL = ("<img src=x onerror=alert(1)>", "<b>bold</b> & %{y}", "$x^2$")
"""Names of classes that would run or change the page if they were read as HTML, or as a template of plotly."""


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, CLASSES)))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


class Curved(Model):
    """A network without a map, trained without labels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 6))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self(batch[0]) - batch[0]).square().mean()


def train(folder: Path, name: str, class_names: Sequence[str] = (), model: type[Model] = Model, **arguments: Any) -> Path:
    """A short training; return the run's folder."""
    pl.seed_everything(0, verbose=False)
    x = torch.randn(120, 6)
    data = TensorDataset(x) if model is Curved else TensorDataset(x, torch.arange(120) % CLASSES)
    data.classes = list(class_names)  # type: ignore[attr-defined]
    loader = DataLoader(Subset(data, range(120)), batch_size=40)
    logger = TensorBoardLogger(folder, name=name)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=logger,
        callbacks=[FoldingMonitor(segments_per_pair=4, num_regions=20, max_overhead=None, **arguments)],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(model(), loader, loader)
    return Path(logger.log_dir)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("logs")
    return {"plain": train(folder, "plain"), "pushed <b>&": train(folder, "pushed <b>&", EVIL, regularize=True)}


def scalars(run: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value of the curves in a run's event files."""
    read = EventAccumulator(str(run), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: {event.step: event.value for event in read.Scalars(tag)} for tag in read.Tags()["scalars"]}


@pytest.mark.slow
def test_tables_agree_with_the_curves_at_every_step(runs: dict[str, Path]) -> None:
    run = runs["plain"]
    log, curves = read_log(run), scalars(run)
    assert len(log["segments"]) == EPOCHS + 1 and set(log["segments"]) == set(curves["folding/chi_mean"])
    for step, table in log["segments"].items():
        assert len(table["chi"]) == 4 * CLASSES * (CLASSES - 1)
        assert table["chi"].mean() == pytest.approx(curves["folding/chi_mean"][step], rel=1e-5)
        assert table["regions"].mean() == pytest.approx(curves["folding/regions"][step], rel=1e-5)
        assert np.median(log["pairs"][step]["folding"]) == pytest.approx(curves["folding/phi"][step], rel=1e-5, abs=1e-7)
        assert log["faces"][step]["faces"].mean() == pytest.approx(curves["faces/mean"][step], rel=1e-5)
        for name, distinct in zip(log["codes"][step]["layer"], log["codes"][step]["distinct"], strict=True):
            assert distinct == curves[f"codes/layer/{name}"][step]
        distances = log["distances"][step]
        assert distances["layer"].tolist() == ["net.1", "net.3"]
        for what in ("within", "between"):  # equally wide layers
            assert distances[what].mean() == pytest.approx(curves[f"codes/{what}"][step], rel=1e-5)
            assert distances[what][0] != distances[what][1]
        for row, name in enumerate(log["units"][step]["layer"]):
            assert log["units"][step]["dead"][row] == pytest.approx(curves[f"units/dead/{name}"][step], rel=1e-5)
    assert str(next(iter(log["about"].values()))["method"]) == "exact"


@pytest.mark.slow
def test_walks_end_at_the_chi_of_their_segments_and_begin_at_their_first_code(runs: dict[str, Path]) -> None:
    log = read_log(runs["plain"])
    for step, walks in log["walks"].items():
        segments = log["segments"][step]
        for number in np.unique(walks["segment"]):
            rows = walks["segment"] == number
            distance, length = walks["distance"][rows], walks["length"][rows]
            assert (np.diff(walks["position"][rows]) >= 0).all() and (np.diff(length) >= 0).all()
            chi = 1 - distance.max() / length[-1] if length[-1] else 0.0
            assert chi == pytest.approx(segments["chi"][segments["segment"] == number].item(), abs=1e-6)


def area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


@pytest.mark.slow
def test_the_map_fills_its_window_at_each_step_at_which_figures_are_due(runs: dict[str, Path]) -> None:
    maps, steps = read_log(runs["plain"])["map"], list(read_log(runs["plain"])["segments"])
    assert list(maps) == [steps[i] for i in (0, 1, 3)]  # the 1st, the 2nd and the 4th measurement, which is the last
    for table in maps.values():
        polygons = np.split(table["vertices"][table["corners"]], table["starts"][1:-1])
        x0, x1, y0, y1 = table["window"]
        assert sum(map(area, polygons)) == pytest.approx((x1 - x0) * (y1 - y0), rel=1e-9)
        assert len(polygons) == len(table["distance"]) == len(table["faces"]) == len(table["prediction"]) > 4
        assert table["distance"].min() == 0 and sorted(table["mark_class"]) == [0, 1, 2]


def test_a_map_as_a_table_has_what_its_polygons_show() -> None:
    torch.manual_seed(0)
    model, inputs = Model().net.double(), torch.randn(3, 6).double()
    found = slice_map(model, inputs)
    table = map_table(found, torch.tensor([2, 0, 1]))
    sides: dict[frozenset[int], list[int]] = {}
    for region, corners in enumerate(np.split(table["corners"], table["starts"][1:-1])):
        for side in zip(corners, np.roll(corners, -1), strict=True):
            sides.setdefault(frozenset(map(int, side)), []).append(region)
    neighbours = [
        {other for pair in sides.values() if region in pair for other in pair} - {region} for region in range(len(found))
    ]
    assert table["faces"].tolist() == [len(others) for others in neighbours]
    with torch.no_grad():
        outputs = model(found.inputs(found.centers))
        bits, own = (torch.cat([model[:2](x) > 0, model[:4](x) > 0], 1) for x in (found.inputs(found.centers), inputs[:1]))
    assert table["distance"].tolist() == (bits ^ own).sum(1).tolist()
    assert table["prediction"].tolist() == outputs.argmax(1).tolist()
    assert table["confidence"] == pytest.approx(outputs.softmax(1).amax(1).numpy(), rel=1e-6)
    assert map_table("No map: too many.", None)["reason"] == "No map: too many."


def test_a_map_as_a_table_has_the_exact_borders_between_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    model, inputs = Model().net.double(), 2 * torch.randn(3, 6).double()
    found = slice_map(model, inputs)
    table = map_table(found, None)
    vertices = table["vertices"]
    assert (vertices[: len(found.vertices)] == found.vertices.numpy()).all() and len(np.unique(vertices, axis=0)) == len(
        vertices
    )
    parts = np.split(vertices[table["part_corners"]], table["part_starts"][1:-1])
    whole = np.split(vertices[table["corners"]], table["starts"][1:-1])
    sizes = np.bincount(table["part_region"], list(map(area, parts)), len(whole))
    divided = np.unique(table["part_region"])
    assert sizes[divided] == pytest.approx([area(whole[region]) for region in divided], rel=1e-9) and len(divided) > 3
    with torch.no_grad():  # a class is the largest of its part, and as large as another all along its borders
        inner = np.stack([part.mean(0) for part in parts])
        assert model(found.inputs(torch.from_numpy(inner))).argmax(1).tolist() == table["part_prediction"].tolist()
        ends = torch.from_numpy(vertices[table["borders"]])
        for share in (0.1, 0.7):
            first, second = model(found.inputs(ends[:, 0] + share * (ends[:, 1] - ends[:, 0]))).topk(2).values.unbind(1)
            assert torch.allclose(first, second, atol=1e-9)
    monkeypatch.setattr(map_tables, "MAP_TABLE_BYTES", sum(column.nbytes for column in table.values()) - 1)
    assert not {"part_region", "borders"} & map_table(found, None).keys()


def test_a_map_of_the_most_regions_has_at_most_256_kib() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10))
    found = slice_map(model, torch.zeros(1, 2), max_regions=MOST_REGIONS)
    table = map_table(found, torch.tensor([1]))
    assert len(found) > MOST_REGIONS / 8
    assert len(found.vertices) <= 2 * len(found) + 4 and len(table["corners"]) <= 6 * len(found) and "borders" in table
    assert sum(column.nbytes for column in table.values()) * MOST_REGIONS / len(found) < MAP_TABLE_BYTES == 2**18


@pytest.mark.slow
def test_classes_have_the_names_that_their_data_set_has(runs: dict[str, Path]) -> None:
    (about,) = read_log(runs["pushed <b>&"])["about"].values()
    assert about["class_names"].tolist() == list(EVIL)
    assert "class_names" not in next(iter(read_log(runs["plain"])["about"].values()))


def test_names_that_are_too_few_or_cannot_be_read_are_none(tmp_path: Path) -> None:
    (about,) = read_log(train(tmp_path, "few", EVIL[:2], folding=False, codes=False, faces=False))["about"].values()
    assert "class_names" not in about

    class Odd(TensorDataset):
        @property
        def classes(self) -> list[str]:
            raise RuntimeError("not downloaded")

    source = ProbeSource(4, seed=0)
    assert source.class_names(DataLoader(Odd(torch.zeros(4, 2)))) == ()
    assert source.class_names(None) == ()
    named = TensorDataset(torch.zeros(4, 2))
    named.classes = ["a" * 100, "b"]  # type: ignore[attr-defined]
    assert source.class_names({"first": [DataLoader(named)], "second": None}) == ("a" * 39 + "…", "b")


@pytest.mark.slow
def test_a_run_that_broke_off_is_read_up_to_there(runs: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(runs["plain"], broken)
    (file,) = broken.glob("*.tfevents.*")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    log, whole = read_log(broken), read_log(runs["plain"])
    assert 0 < len(log["segments"]) < len(whole["segments"])
    assert all((log["segments"][step]["chi"] == whole["segments"][step]["chi"]).all() for step in log["segments"])


@pytest.mark.slow
def test_what_holds_no_tables_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Expected the folder of a run, got .*nowhere, which is not a folder"):
        read_log(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="Expected event files of TensorBoard in .*, got none"):
        read_log(tmp_path)
    with pytest.raises(ValueError, match="Expected one run, got 2 in .*Pass the folder of one of them"):
        read_log(runs["plain"].parents[1])
    logger = TensorBoardLogger(tmp_path, name="curves")
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.save()
    with pytest.raises(ValueError, match="the run had no monitor, or one of an older version"):
        read_log(logger.log_dir)


def test_folders_without_one_run_with_event_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="`log_dir` must be the folder of a run, got None: pass `logger.log_dir`"):
        read_log(None)  # type: ignore[arg-type]
    csv = CSVLogger(tmp_path / "csv")
    csv.log_metrics({"loss": 1.0}, step=0)
    csv.save()
    with pytest.raises(FileNotFoundError, match="got none: train with `TensorBoardLogger`, and pass its `log_dir`"):
        read_log(csv.log_dir)
    for number in range(49):
        run = tmp_path / "many" / f"version_{number:02}"
        run.mkdir(parents=True)
        (run / "events.out.tfevents.0").touch()
    with pytest.raises(ValueError, match="got 49 in .*: version_00, .*version_09 and 39 more. Pass the folder") as error:
        read_log(tmp_path / "many")
    assert "version_10" not in str(error.value)


def test_no_table_unpickles_and_none_is_larger_than_its_bound() -> None:
    bytes_with_object = pack({"a": np.array([1.0])})[:20]
    with pytest.raises(ValueError, match="Expected a table of FoldingMonitor, got 20 bytes in another format"):
        unpack(bytes_with_object)
    with pytest.raises(ValueError):
        unpack(pack({"a": np.array([{}], dtype=object)}))
    table = limit_size({"segment": np.arange(10**6), "chi": np.random.default_rng(0).random(10**6), "bound": np.array(4)})
    assert sum(column.nbytes for column in table.values() if column.ndim) <= TABLE_BYTES
    assert table["segment"][0] == 0 and table["segment"][-1] == 10**6 - 1 and table["num_rows"] == 10**6


@pytest.mark.slow
def test_runs_with_and_without_the_push_have_the_same_hyperparameters_and_final_values(runs: dict[str, Path]) -> None:
    found = []
    for run in runs.values():
        read = EventAccumulator(str(run))
        read.Reload()
        found.append(set(read.PluginTagToContent("hparams")))
        assert "hp_metric" not in read.Tags()["scalars"]
    assert found[0] == found[1] and "_hparams_/session_start_info" in found[0]


@pytest.fixture(scope="module")
def server(runs: dict[str, Path]) -> Iterator[str]:
    board = program.TensorBoard()
    board.configure(argv=["", "--logdir", str(runs["plain"].parents[1]), "--host", "127.0.0.1", "--port", "0"])
    yield board.launch()


def ask(server: str, route: str) -> Any:
    with urlopen(f"{server}data/plugin/fold_lightning/{route}", timeout=60) as answer:
        return json.loads(answer.read())


def named(server: str) -> dict[str, Any]:
    return {name.split("/")[0]: about | {"run": name} for name, about in ask(server, "runs").items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "pushed <b>&"])
def test_the_server_has_every_curve_and_table(server: str, runs: dict[str, Path], name: str) -> None:
    about = named(server)[name]
    run, log, expected = quote(about["run"]), read_log(runs[name]), scalars(runs[name])
    assert set(about["tables"]) >= {"segments", "pairs", "walks", "layers", "units", "codes", "faces", "map"}
    curves = ask(server, f"curves?run={run}")
    shown = {
        tag
        for tag in expected
        if tag.split("/")[0] in ("folding", "codes", "units", "faces", "regions", "regularizer", "monitor")
    }
    assert set(curves) == shown
    assert all(dict(zip(c["steps"], c["values"], strict=True)) == pytest.approx(expected[tag]) for tag, c in curves.items())
    assert len(curves) > 20 and all(curve["description"] for curve in curves.values()), "as TensorBoard loads logs by default"
    last = max(log["segments"])
    for table in about["tables"]:
        given = ask(server, f"table?run={run}&table={table}&step={last}")
        assert set(given["columns"]) == set(log[table][given["step"]])
    assert ask(server, f"table?run={run}&table=segments&step={last}")["columns"]["chi"] == pytest.approx(
        log["segments"][last]["chi"].tolist()
    )


@pytest.mark.slow
def test_pictures_and_histograms_come_with_their_descriptions(server: str) -> None:
    for plugin, count in (("images", 8), ("histograms", 2)):
        with urlopen(f"{server}data/plugin/{plugin}/tags", timeout=60) as answer:
            runs = json.loads(answer.read())
        assert len(runs) == 2 and all(len(tags) == count for tags in runs.values())
        assert all(found["description"] for tags in runs.values() for found in tags.values())
    run, tag = quote(next(iter(runs))), quote("regions/slice", safe="")
    with urlopen(f"{server}data/plugin/images/images?run={run}&tag={tag}&sample=0", timeout=60) as answer:
        (first, *_) = json.loads(answer.read())
    with urlopen(f"{server}data/plugin/images/individualImage?{first['query']}", timeout=60) as answer:
        picture = answer.read()
    assert picture.startswith(b"\x89PNG") and struct.unpack(">II", picture[16:24]) == (710, 530)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("route", "said"),
    [
        ("table?run=plain/version_0&table=nothing&step=0", "Expected a table that run"),
        ("table?run=plain/version_0&table=segments&step=two", "Expected an integer `step`, got 'two'"),
        ("curves?run=nothing", "Expected a run with curves of FoldingMonitor, got 'nothing'"),
    ],
)
def test_the_server_says_what_a_wrong_request_should_have_named(server: str, route: str, said: str) -> None:
    with pytest.raises(HTTPError) as error:
        ask(server, route)
    assert error.value.code == 400 and said in error.value.read().decode()


IS_IN_VIEW = """name => {
    const element = document.querySelector(name);
    const { left, top, width, height } = element.getBoundingClientRect();
    return top >= 0 && document.elementFromPoint(left + width / 2, top + height / 2) === element;
}"""
"""Whether the element of a selector can be seen and clicked without scrolling."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1400, False), (700, True)])
def test_a_browser_draws_each_part_and_a_cell_shows_its_walks(
    server: str, runs: dict[str, Path], browser: Any, width: int, dark: bool
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 1400}, color_scheme="dark" if dark else "light")
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
    page.goto(f"{server}?darkMode={str(dark).lower()}#fold_lightning")
    frame = page.wait_for_selector("iframe", timeout=60_000).content_frame()
    frame.wait_for_selector(".js-plotly-plot .heatmaplayer image", timeout=60_000)
    frame.wait_for_timeout(2000)
    text = frame.inner_text("body")
    for part in ("How folding grows", "Folding between classes", "Map of a plane", "Layer by layer", "Faces of the regions"):
        assert part in text
    assert "pushed <b>&" in text  # as text, and not as a tag
    assert len(frame.query_selector_all(".js-plotly-plot")) >= 12
    buttons = {button.get_attribute("data-title") for button in frame.query_selector_all(".modebar-btn")}
    assert len(buttons) == 4 and not any(
        "loud" in title or "Chart Studio" in title for title in buttons
    )  # nothing is sent away
    assert frame.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")

    cell = frame.query_selector(".js-plotly-plot .heatmaplayer image")
    cell.scroll_into_view_if_needed()
    box = cell.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 6, box["y"] + box["height"] / 2)  # from the second class to the first
    frame.wait_for_selector("text=Segments from class 1 to class 0", timeout=30_000)

    atlas = frame.query_selector("#map .plot")
    atlas.scroll_into_view_if_needed()
    atlas.hover()
    frame.wait_for_selector("text=/Region \\d+ of .* distance \\d+.* faces? in this window .* predicts class/", timeout=30_000)
    assert frame.query_selector("#map .over polygon") and not frame.query_selector("#map .over circle")
    atlas.focus()
    page.keyboard.press("ArrowRight")
    assert frame.query_selector("#map .over circle")
    frame.select_option("#map-colour", "prediction")
    frame.wait_for_selector("text=Predicted:", timeout=30_000)
    log = read_log(runs["plain"])["map"]
    borders = log[max(log)]["borders"]
    drawn = frame.evaluate(
        "[...document.querySelectorAll('#map .plot')].map(({data}) => data.filter(({line}) => line?.width === 2.2))"
    )
    assert any(len(traces) == 1 and len(traces[0]["x"]) == 3 * len(borders) for traces in drawn) and len(borders) > 0
    assert EVIL[0] in frame.inner_text("#map")

    for run_ticks in frame.evaluate(
        "[...document.querySelectorAll('#faces .plot')].map(p => [...p.querySelectorAll('.xtick text')].map(t => t.textContent))"
    ):
        assert run_ticks == [str(tick) for tick in sorted(set(map(int, run_ticks)))] and len(run_ticks) > 1

    assert frame.evaluate("window.scrollTo(0, 1e6), window.scrollY") > 1500
    assert frame.evaluate(IS_IN_VIEW, "#play") and frame.evaluate(IS_IN_VIEW, "#step")
    slider = frame.query_selector("input[type=range]")
    before = slider.get_attribute("aria-valuetext")
    slider.focus()
    page.keyboard.press("Home")
    frame.wait_for_timeout(1500)
    assert slider.get_attribute("aria-valuetext") != before and "step 0" in slider.get_attribute("aria-valuetext")
    frame.wait_for_selector("#map >> text=regions at step 0", timeout=30_000)
    assert not errors
    page.close()


def tab(page: Any, address: str) -> Any:
    """The frame of the Folding tab, once it has drawn."""
    page.goto(f"{address}#fold_lightning")
    frame = page.wait_for_selector("iframe", timeout=60_000).content_frame()
    frame.wait_for_selector("body[data-drawn]", timeout=60_000)
    return frame


@pytest.mark.slow
def test_a_curved_run_without_labels_has_no_classes_to_choose_and_says_why_there_is_no_map(
    browser: Any, tmp_path: Path
) -> None:
    train(tmp_path, "curved", model=Curved)
    board = program.TensorBoard()
    board.configure(argv=["", "--logdir", str(tmp_path), "--host", "127.0.0.1", "--port", "0"])
    page = browser.new_page()
    frame = tab(page, board.launch())
    frame.wait_for_selector("#pairs >> text=/Segments/", timeout=60_000)
    assert not frame.is_visible("#pair-from") and not frame.is_visible("#pair-to")
    assert "This run has no map: it needs a piecewise linear network" in frame.inner_text("#map")
    assert not frame.is_visible("#map-colour") and not frame.is_visible("#map .plot")
    how = frame.inner_text("#pairs .how")
    assert "it is interpolated" in how and "(chosen because a walk evaluates no more than" in how and "exact" not in how
    assert frame.query_selector("#runs .swatch")
    frame.uncheck("#runs input")
    frame.wait_for_selector("text=Choose a run above.", timeout=30_000)
    assert frame.query_selector("#runs .swatch") is None
    page.close()


@pytest.mark.slow
def test_classes_of_several_runs_are_known_by_name_and_a_run_that_lacks_one_says_so(
    server: str, browser: Any, runs: dict[str, Path]
) -> None:
    page = browser.new_page()
    frame = tab(page, server)
    frame.wait_for_selector("#pair-from option", state="attached", timeout=60_000)
    options = frame.eval_on_selector("#pair-from", "select => [...select.options].map(({text}) => text)")
    assert sorted(options) == sorted(["0", "1", "2", *EVIL])
    frame.select_option("#pair-from", EVIL[1])
    frame.select_option("#pair-to", EVIL[0])
    frame.wait_for_function(
        "name => document.querySelector('#segments td:nth-child(2)')?.textContent.endsWith(`(class ${name})`)", arg=EVIL[1]
    )
    assert (
        frame.inner_text("#lacking")
        == f"{named(server)['plain']['run']} has no segments of class {EVIL[1]} or class {EVIL[0]}."
    )
    assert len(frame.query_selector_all("#segments tbody tr")) == 4
    page.close()


@pytest.mark.slow
def test_each_of_many_classes_in_a_map_has_its_own_colour_and_the_rest_one(server: str, browser: Any) -> None:
    names, page = [f"class number {label}" for label in range(50)], browser.new_page()

    def named_classes(route: Any) -> None:
        content = route.fetch().json()
        for run in content.values():
            run["about"]["class_names"] = names
        route.fulfill(json=content)

    def many_classes(route: Any) -> None:
        content = route.fetch().json()
        columns = {key: column for key, column in content["columns"].items() if not key.startswith(("part", "borders"))}
        columns["prediction"] = [10 * (region % 4) + region % 3 for region in range(len(columns["distance"]))]
        (x, y), half = columns["marks"][0], columns["marks"][1][0] - columns["marks"][0][0]
        content["columns"] = columns | {"window": [x - half / 2, x + half / 2, y - half / 2, y + half / 2]}
        if "pushed" in route.request.url:
            content["columns"] = {"reason": "No map of regions. There are too many."}
        route.fulfill(json=content)

    page.route("**/plugin/fold_lightning/runs", named_classes)
    page.route("**/plugin/fold_lightning/table?*table=map*", many_classes)
    frame = tab(page, server)
    frame.select_option("#map-colour", "prediction")
    frame.wait_for_selector("text=Predicted: >> nth=0", timeout=30_000)
    colours = frame.eval_on_selector("#map .legend", "e => [...e.querySelectorAll('.swatch')].map(s => s.style.background)")
    assert len(colours) == len(set(colours)) == 10  # of 12 classes: 9 and one for the others
    text = frame.inner_text("#map")
    assert "No map of regions. There are too many." in text and "This run has no map" not in text
    assert "3 others: point at them" in text and "class class" not in text and "class number" in text
    assert "the window is zoomed on the first" in text and "outside" in text
    frame.hover("#map .plot")
    frame.wait_for_selector("text=/predicts class number \\d+/", timeout=30_000)
    frame.wait_for_selector("text=/Segments from class number \\d/", timeout=30_000)
    page.close()


def without_last(data: bytes, word: bytes) -> tuple[bytes, bytes]:
    """Return an event file without the last record that holds a word, and that record: 8 bytes of length, 4, itself and 4 more."""
    at, found = 0, slice(0)
    while at < len(data):
        end = at + 16 + struct.unpack_from("<Q", data, at)[0]
        found, at = (slice(at, end) if word in data[at:end] else found), end
    return data[: found.start] + data[found.stop :], data[found]


@pytest.mark.slow
def test_a_map_that_is_written_after_the_last_measurement_is_shown(browser: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    (file,) = runs["plain"].glob("*.tfevents.*")
    before, last_map = without_last(file.read_bytes(), b"fold_lightning/map")
    growing = tmp_path / "run" / file.name
    growing.parent.mkdir()
    growing.write_bytes(before)
    board = program.TensorBoard()
    board.configure(argv=["", "--logdir", str(tmp_path), "--host", "127.0.0.1", "--port", "0", "--reload_interval", "1"])
    page = browser.new_page()
    page.goto(f"{board.launch()}#fold_lightning")
    frame = page.wait_for_selector("iframe", timeout=60_000).content_frame()
    step = max(read_log(runs["plain"])["segments"])
    frame.wait_for_selector(f"#map >> text=the last map up to step {step}", timeout=60_000)
    with growing.open("ab") as rest:
        rest.write(last_map)
    frame.wait_for_selector(f"#map >> text=/regions at step {step}$/", timeout=60_000)
    page.close()


@pytest.mark.slow
def test_a_folder_without_runs_says_what_to_do(browser: Any, tmp_path: Path) -> None:
    board = program.TensorBoard()
    board.configure(argv=["", "--logdir", str(tmp_path), "--host", "127.0.0.1", "--port", "0"])
    page = browser.new_page()
    page.goto(f"{board.launch()}#fold_lightning")
    frame = page.wait_for_selector("iframe", timeout=60_000).content_frame()
    frame.wait_for_selector("text=There are no runs with measurements of FoldingMonitor", timeout=60_000)
    page.close()


@pytest.mark.slow
def test_the_page_of_hyperparameters_compares_runs_by_folding_and_validation(server: str, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 3000, "height": 800})
    page.goto(f"{server}#hparams")
    for column in (
        "folding_monitor/method",
        "folding_monitor/regularize",
        "folding/phi",
        "codes/distinct",
        "units/dead",
        "val_loss",
    ):
        page.wait_for_selector(f"text={column}", timeout=60_000, state="attached")
    assert page.query_selector("text=hp_metric") is None
    page.close()
