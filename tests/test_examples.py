"""The examples run as the README says, and read what they are given."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path[:0] = [str(EXAMPLES), str(EXAMPLES / "papers")]

from idx import load_digits, load_split, read_idx  # noqa: E402

from helpers.processes import run_here, run_script  # noqa: E402


def write_idx(path: Path, array: np.ndarray) -> None:
    data = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small data set in MNIST's form, half of it gzipped."""
    random = np.random.default_rng(0)
    for split, count in (("train", 64), ("t10k", 20)):
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", random.integers(0, 256, (count, 8, 8)))
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte", random.integers(0, 10, count))
    return tmp_path


def run(script: str, *arguments: str, **constants: Any) -> subprocess.CompletedProcess[str]:
    return run_here(Path(script), *arguments, **constants)


@pytest.mark.slow
def test_digits_prints_a_table_and_the_command_to_go_on_with(tmp_path: Path) -> None:
    done = run(str(EXAMPLES / "digits.py"), "--epochs", "2", "--log-dir", str(tmp_path), "--segments", "8")
    assert done.returncode == 0, done.stderr
    assert "chi_mean" in done.stdout and f"tensorboard --logdir {tmp_path}" in done.stdout
    assert list(tmp_path.rglob("events.out.tfevents.*"))


@pytest.mark.slow
def test_digits_takes_a_folder_of_idx_files(folder: Path, tmp_path: Path) -> None:
    done = run(str(EXAMPLES / "digits.py"), "--epochs", "1", "--log-dir", str(tmp_path), "--data-dir", str(folder))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("model", "activation"), [("cnn", "relu"), ("resnet", "gelu"), ("vit", "swiglu"), ("mlp", "swiglu"), ("vit", "gelu")]
)
@pytest.mark.slow
def test_digits_trains_and_measures_other_networks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, activation: str
) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)  # other tests draw
    small = ("--width", "16", "--depth", "2", "--segments", "4", "--epochs", "1", "--log-dir", str(tmp_path))
    done = run(str(EXAMPLES / "digits.py"), "--data-dir", str(folder), "--model", model, "--activation", activation, *small)
    assert done.returncode == 0 and "chi_mean" in done.stdout, done.stderr
    assert "could not measure" not in done.stderr


@pytest.mark.slow
def test_screenshots_are_made_of_a_run(tmp_path: Path) -> None:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("no Chromium is installed")
    nothing = run(str(EXAMPLES / "screenshots.py"), "--log-dir", str(tmp_path), "--out", str(tmp_path))
    assert nothing.returncode == 1 and "got none: train with" in nothing.stderr
    small = ("--epochs", "1", "--segments", "8", "--depth", "2", "--width", "8", "--log-dir", str(tmp_path / "logs"))
    assert run(str(EXAMPLES / "digits.py"), *small).returncode == 0
    done = run(str(EXAMPLES / "screenshots.py"), "--log-dir", str(tmp_path / "logs"), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    sizes = {name: struct.unpack(">II", (tmp_path / name).read_bytes()[16:24]) for name in ("tab.png", "map.png")}
    assert sizes["tab.png"] == (1400, 1890) and sizes["map.png"] == (710, 530)


GALLERY = {"walk", "folding", "folding_between_classes", "folding_over_time", "codes", "units", "faces"}


@pytest.mark.slow
def test_the_gallery_makes_every_figure_of_a_network_and_of_its_checkpoint(tmp_path: Path) -> None:
    small = ("--depth", "2", "--width", "8")
    trained = run(str(EXAMPLES / "gallery.py"), "--epochs", "1", "--out", str(tmp_path / "first"), *small)
    assert trained.returncode == 0, trained.stderr
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    loaded = run(str(EXAMPLES / "gallery.py"), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "second"), *small)
    assert loaded.returncode == 0, loaded.stderr
    for name in GALLERY | {"map_by_distance", "map_by_class"}:
        first, second = (tmp_path / folder / f"{name}.png" for folder in ("first", "second"))
        assert first.stat().st_size > 5000 and first.read_bytes() == second.read_bytes(), name
    other = run(str(EXAMPLES / "gallery.py"), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "third"))
    assert other.returncode == 1 and "holds another network: pass the `--model`" in other.stderr


@pytest.mark.slow
def test_the_gallery_says_which_figures_a_curved_network_lacks(tmp_path: Path) -> None:
    small = ("--depth", "2", "--width", "8", "--activation", "gelu", "--epochs", "1", "--out", str(tmp_path))
    done = run(str(EXAMPLES / "gallery.py"), *small)
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in tmp_path.glob("*.png")} == GALLERY - {"faces"}
    assert done.stdout.count("No map_by_") == 2 and "No faces: " in done.stdout


def test_arguments_of_digits_are_checked(tmp_path: Path) -> None:
    digits = str(EXAMPLES / "digits.py")
    for arguments, message in (
        (("--epochs", "0"), "must be at least 1, got 0"),
        (("--model", "cnn", "--activation", "swiglu"), "swiglu goes with mlp and vit"),
    ):
        done = run(digits, "--log-dir", str(tmp_path), *arguments)
        assert done.returncode and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "option"),
    [
        ("digits.py", "--log-dir"),
        ("gallery.py", "--out"),
        ("benchmarks/codes.py", "--output-dir"),
        ("papers/regularizer_study.py", "--output-dir"),
        ("papers/space_folds.py", "--output-dir"),
        ("papers/phi_mnist.py", "--out"),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_run(tmp_path: Path, script: str, option: str) -> None:
    (tmp_path / "file").write_text("")
    done = run(str(EXAMPLES / script), option, str(tmp_path / "file" / "folder"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"argument {option}: expected a folder that files can be written to, got {tmp_path / 'file'}" in done.stderr


@pytest.mark.slow
def test_a_benchmark_takes_at_least_one_turn() -> None:
    done = run(str(EXAMPLES / "benchmarks" / "run_all.py"), "--repeats", "0")
    assert done.returncode == 2 and "argument --repeats: must be at least 1, got 0" in done.stderr


def test_a_missing_or_damaged_file_is_told_in_one_line(folder: Path, tmp_path: Path) -> None:
    digits = str(EXAMPLES / "digits.py")
    missing = run(digits, "--data-dir", str(tmp_path / "nowhere"))
    assert missing.returncode == 1 and "There is no folder" in missing.stderr and "Traceback" not in missing.stderr
    (folder / "t10k-labels-idx1-ubyte").unlink()
    gone = run(digits, "--data-dir", str(folder))
    assert "neither t10k-labels-idx1-ubyte nor" in gone.stderr and "Traceback" not in gone.stderr


def test_files_are_read_as_numpy_wrote_them(folder: Path) -> None:
    images, labels = load_split(folder, "train")
    assert images.shape == (64, 64) and images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1
    assert labels.shape == (64,) and labels.dtype == torch.int64
    array = np.arange(24).reshape(2, 3, 4)
    write_idx(folder / "x", array)
    assert (read_idx(folder / "x").numpy() == array).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (b"\x89PNG....", "no IDX file"),
        (b"\0\0\x08", "no IDX file"),
        (b"\0\0\x08\x01\0\0\0\x05abc", "promises 5 bytes, 3 follow"),
        (b"\0\0\x08\x03\0\0", "damaged"),
        (b"\0\0\x08\0", "damaged"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "x")


def test_a_cut_off_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(1000))[:20])
    with pytest.raises(ValueError, match="can't be unpacked"):
        read_idx(tmp_path / "x.gz")


def test_images_and_labels_must_belong_together(folder: Path) -> None:
    write_idx(folder / "train-labels-idx1-ubyte", np.zeros(3))
    with pytest.raises(ValueError, match="do not belong together"):
        load_split(folder, "train")


def test_the_embedded_digits_need_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(FileNotFoundError, match=r"pip install 'fold-lightning\[examples\]', or pass a folder"):
        load_digits()


def test_the_embedded_digits_are_split_the_same_each_time() -> None:
    (train, _), (test, labels) = load_digits()
    assert train.shape == (1437, 64) and test.shape == (360, 64) and set(labels.tolist()) == set(range(10))
    assert torch.equal(test, load_digits()[1][0])


def benchmark(script: str, folder: Path, *arguments: str, **constants: Any) -> str:
    """Run a benchmark, and return the page that it has written and printed."""
    done = run(str(EXAMPLES / "benchmarks" / f"{script}.py"), *arguments, "--output-dir", str(folder), **constants)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.md")
    page = file.read_text()
    assert set(page.splitlines()) <= set(done.stdout.splitlines()) and page.startswith("# ")
    assert f"python examples/benchmarks/{script}.py {' '.join(arguments)}".strip() in page and "--output-dir" not in page
    return page


def columns(page: str, *names: str) -> list[tuple[str, ...]]:
    """Return these columns of the table that has them all."""
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
        if set(names) <= set(header):
            return [tuple(row[header.index(name)] for name in names) for row in rows]
    raise AssertionError(f"No table has {names}:\n{page}")


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


def test_a_page_names_its_command_and_is_written_only_if_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pages import Page, called

    script = str(EXAMPLES / "benchmarks" / "walks.py")
    words = ["--data-dir", "/some/where", "--only", "a", "b", "--output-dir", str(tmp_path), "--steps", "2", "--large"]
    monkeypatch.setattr(sys, "argv", [script, *words])
    assert called("--only") == "python examples/benchmarks/walks.py --data-dir FOLDER --steps 2 --large"
    with pytest.raises(ZeroDivisionError), Page("failed", "Title", tmp_path):
        raise ZeroDivisionError
    with Page("some", "Title", tmp_path) as page:
        page.say("Words \n of a text.")
        page.table("a", "b")
        page.row("1", "2")
        page.row("3", "4")
        page.add("End.")
    text = (tmp_path / "some.md").read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["some.md"] and capsys.readouterr().out.endswith(text)
    assert text.endswith("\nWords of a text.\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |\n\nEnd.\n")
    assert text.startswith("# Title\n\n```bash\npython examples/benchmarks/walks.py --data-dir FOLDER --only a b")
    with Page("printed", "Title", None, command="make"):
        pass
    assert not (tmp_path / "printed.md").exists() and "```bash\nmake\n```" in capsys.readouterr().out


@pytest.mark.slow
def test_the_benchmark_of_walks_finds_the_switches_of_the_other_ways(tmp_path: Path) -> None:
    page = benchmark("walks", tmp_path, "--segments", "2", "--repeats", "1", "--steps", "2", "--stream", "5")
    same = [cell for (cell,) in columns(page, "the same switches")]
    assert same == ["yes", "yes", "", "", "", ""]
    assert len(set(columns(page, "switches"))) == 1 and len(columns(page, "switches")) == 2


@pytest.mark.slow
def test_the_benchmark_of_engines_finds_the_same_switches(tmp_path: Path) -> None:
    small = ("--networks", "LeNet", "--segments", "1", "--length", "0.005", "--steps", "1")
    page = benchmark("engines", tmp_path, *small)
    assert columns(page, "network", "segments", "the same switches") == [("LeNet", "1", "yes")]
    assert len(columns(page, "convolutions", "us a switch")) == 6


@pytest.mark.slow
def test_the_benchmark_of_equidistant_points_counts_images(tmp_path: Path) -> None:
    small = ("--networks", "mlp", "--segments", "2", "--num-points", "3", "--repeats", "1")
    assert columns(benchmark("uniform", tmp_path, *small), "units", "images") == [("1,536", "6")]


@pytest.mark.slow
def test_the_benchmark_of_the_monitor_gives_its_share_of_a_fit(tmp_path: Path) -> None:
    small = ("--networks", "mlp", "--images", "64", "--epochs", "1", "--pairs", "1")
    page = benchmark("overhead", tmp_path, *small)
    ((images, method, took, ratio, nothing),) = columns(
        page, "images", "method", "in hooks, of the fit", "fit with / without", "noise"
    )
    hooks, whole = map(float, re.findall(r"[\d.]+", took))
    assert (images, method) == ("64", "exact") and 0 < hooks <= whole and float(ratio) > 0 and float(nothing) > 0


PHI = (str(EXAMPLES / "papers" / "phi_mnist.py"), "--paths", "70", "--depth", "2", "--width", "8", "--epochs", "1")


def test_one_process_alone_writes_the_settings_of_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from phi_mnist import same_study

    monkeypatch.setenv("LOCAL_RANK", "1")
    same_study(tmp_path, {"paths": 2})
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("LOCAL_RANK", "0")
    same_study(tmp_path, {"paths": 2})
    monkeypatch.setenv("LOCAL_RANK", "1")
    same_study(tmp_path, {"paths": 2})
    with pytest.raises(SystemExit, match="holds another study .paths was 2, now 3"):
        same_study(tmp_path, {"paths": 3})


@pytest.mark.processes
@pytest.mark.slow
def test_phi_is_the_same_for_any_number_of_processes_and_after_an_interruption(folder: Path, tmp_path: Path) -> None:
    for split, count in (("train", 64), ("t10k", 20)):
        write_idx(folder / f"{split}-labels-idx1-ubyte", np.arange(count) % 4)  # 12 pairs of classes
    once, again = tmp_path / "once", tmp_path / "again"
    data = ("--data-dir", str(folder))
    done = run(*PHI, *data, "--out", str(once))
    assert done.returncode == 0 and "Phi_N = " in done.stdout and "paths/s" in done.stdout, done.stderr
    again.mkdir()
    (again / "network.pt").write_bytes((once / "network.pt").read_bytes())
    part = torch.load(once / "part-0-0.pt")
    assert len(part["blocks"]) == 24
    done = run_script(*PHI, *data, "--out", str(again), "--strategy", "ddp", "--devices", "2", count=2)
    assert done.returncode == 0, done.stderr
    parts = sorted(again.glob("part-*.pt"))
    assert len(parts) == 2
    assert sorted(block for file in parts for block in torch.load(file)["blocks"]) == sorted(part["blocks"])
    first, second = (json.loads((out / "phi.json").read_text()) for out in (once, again))
    assert first == second and 0 <= first["phi"] < 1
    parts[0].unlink()  # as if that process had been stopped before it saved anything
    (again / "phi.json").unlink()
    done = run(*PHI, *data, "--out", str(again))
    assert "Going on: " in done.stdout and json.loads((again / "phi.json").read_text()) == first, done.stderr
    (again / "phi.json").unlink()
    # Nothing is left to walk, and with one block left one process of two has none.
    done = run(*PHI, *data, "--out", str(again), "--across", "max")
    assert done.returncode == 0 and json.loads((again / "phi.json").read_text())["across"] == "max", done.stderr
    whole = torch.load(once / "part-0-0.pt")
    for file in again.glob("part-*.pt"):
        file.unlink()
    (again / "part-0-0.pt").write_bytes((once / "part-0-0.pt").read_bytes())
    lost = whole["blocks"].pop()
    torch.save(whole, again / "part-0-0.pt")
    done = run_script(*PHI, *data, "--out", str(again), "--strategy", "ddp", "--devices", "2", count=2)
    assert done.returncode == 0 and json.loads((again / "phi.json").read_text()) == first, done.stderr
    assert any(torch.load(file)["blocks"] == [lost] for file in again.glob("part-1-*.pt"))
    (again / "part-0-0.pt").write_bytes(b"half a file")
    done = run(*PHI, *data, "--out", str(again))
    assert done.returncode == 1 and "part-0-0.pt is damaged" in done.stderr
    done = run(*PHI, *data, "--out", str(again), "--paths", "9")
    assert done.returncode == 1 and "holds another study (paths was 70, now 9)" in done.stderr


def test_paths_of_a_block_are_drawn_by_its_number() -> None:
    from phi_mnist import BLOCK, Paths

    labels = torch.tensor([0, 2, 2, 0, 3, 3, 3])
    paths = Paths(torch.arange(7.0)[:, None], labels, per_pair=BLOCK + 5, seed=1)
    assert paths.num_classes == 4 and paths.num_blocks == 12
    found: dict[tuple[int, int], int] = {}
    for number in range(paths.num_blocks):
        start, end, start_class, end_class = paths.block(number)
        assert torch.equal(labels[start.long().squeeze(1)], start_class)
        assert torch.equal(labels[end.long().squeeze(1)], end_class)
        pair = (int(start_class[0]), int(end_class[0]))
        found[pair] = found.get(pair, 0) + len(start)
    assert found == {(a, b): BLOCK + 5 for a in (0, 2, 3) for b in (0, 2, 3) if a != b}
    assert torch.equal(paths.block(3)[0], paths.block(3)[0]) and not torch.equal(paths.block(0)[0], paths.block(6)[0][:5])


@pytest.mark.slow
def test_the_benchmark_of_codes_agrees_with_torch_unique(tmp_path: Path) -> None:
    small = ("--images", "0", "--paths", "16", "--codes", "3000", "--stream", "100000", "--repeats", "1", "--steps", "1")
    page = benchmark("codes", tmp_path, *small)
    assert set(columns(page, "which agrees")) == {("yes",)}
    assert columns(page, "codes", "distinct", "s")[0][:2] == ("100,000", "1,000")


@pytest.mark.slow
def test_the_benchmark_of_faces_agrees_with_one_linear_program_a_row(tmp_path: Path) -> None:
    small = (
        "--inputs",
        "2",
        "--few",
        "1",
        "--slices",
        "2",
        "--many",
        "5",
        "--repeats",
        "1",
        "--seconds",
        "0.2",
        "--steps",
        "1",
    )
    networks = {"NETWORKS": ((2, 8, 8), (10, 12, 12)), "LARGE": (64, 128), "SLICED": (784, 64, 64)}
    rows = columns(benchmark("faces", tmp_path, *small, **networks), "way", "agrees")
    programs = [verdict for way, verdict in rows if way.startswith("one linear program a row")]
    assert len(programs) == 5 and all(verdict.startswith("0 of ") for verdict in programs)


@pytest.mark.slow
def test_all_benchmarks_write_tables_whose_results_agree(tmp_path: Path) -> None:
    parts = ("walks", "codes", "faces", "overhead", "regularizer", "maps")
    done = run(str(EXAMPLES / "benchmarks" / "run_all.py"), "--smallest", "--repeats", "1", "--output-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    pages = {part: (tmp_path / f"{part}.md").read_text() for part in parts}
    assert all(re.search("floor: |reference: ", page) and "| NO |" not in page for page in pages.values())
    assert [pages[part].count("| yes |") for part in ("walks", "codes", "faces")] == [2, 4, 4]


@pytest.mark.slow
def test_the_benchmark_of_maps_finds_at_least_what_a_raster_does(tmp_path: Path) -> None:
    small = ("--raster", "40", "--repeats", "1", "--steps", "1")
    page = benchmark("maps", tmp_path, *small, WIDTHS=((64, 32, 32), (784, 64, 64)))
    rows = columns(page, "regions", "codes it shows")
    assert len(rows) == 4 and all(number(found) >= number(seen) for found, seen in rows)


@pytest.mark.slow
def test_the_benchmark_of_tables_gives_their_share_and_bytes(tmp_path: Path) -> None:
    page = benchmark("tables", tmp_path, "--models", "mlp", "--epochs", "1", "--images", "64")
    ((share, size, size_of_map),) = columns(page, "share of it", "KB a measurement", "KB of a map")
    assert 0 < float(share.rstrip("%")) < 100 and int(size) > 0 and int(size_of_map) > 0
    assert {"`map`", "`pairs`"} <= {name for name, _ in columns(page, "table", "KB")}


@pytest.mark.slow
@pytest.mark.parametrize("compare", ["default", "ways", "robustness", "weights", "schedules", "surrogates"])
def test_the_study_of_the_regularizer_writes_tables_and_draws(tmp_path: Path, compare: str) -> None:
    small = ("--seeds", "1", "--epochs", "2", "--images", "100", "--depth", "3", "--width", "8", "--per-pair", "1")
    script = str(EXAMPLES / "papers" / "regularizer_study.py")
    folder = tmp_path / "not" / "yet"
    done = run(script, "--compare", compare, *small, "--output-dir", str(folder))
    assert done.returncode == 0, done.stderr
    page = (folder / f"regularizer_{compare}.md").read_text()
    assert page in done.stdout and (folder / f"regularizer_{compare}.png").stat().st_size > 5000
    assert "100 images" in page and "90 test segments" in page
    settings = columns(page, "activation", "setting", "r1", "test accuracy")
    assert settings[0][:2] == ("relu", "none") and len(columns(page, "setting", "exact chi", "Phi_N")) == len(settings) - 1


def test_the_study_keeps_validation_and_test_data_apart_from_what_it_trains_on() -> None:
    from regularizer_study import split

    train = torch.arange(100.0)[:, None], torch.arange(100)
    parts = split(train, (train[0] + 1000, train[1] + 1000), None)
    assert [len(labels) for _, labels in parts.values()] == [80, 20, 100]
    assert len(torch.cat([labels for _, labels in parts.values()]).unique()) == 200
    assert len(split(train, train, 30)["train"][1]) == 30


@pytest.mark.slow
def test_the_studys_weight_0_is_no_regularizer_and_its_halves_are_layers() -> None:
    from models import build
    from regularizer_study import NONE, _half, fit

    images, labels = torch.rand(40, 64), torch.arange(40) % 10
    nets = []
    for options, more in ((NONE, {}), ({"share": None}, {}), ({}, {}), (NONE, {"optimizer": "sgd"}), (NONE, {"clip": 1e-3})):
        torch.manual_seed(0)
        net = build("mlp", "relu", 8, 3, 8)
        assert fit(net, (images, labels), options, seed=0, epochs=2, batch_size=20, **more) > 0
        nets.append(net)
    torch.manual_seed(0)
    plain = build("mlp", "relu", 8, 3, 8)
    optimizer = torch.optim.Adam(plain.parameters(), 1e-3)
    for _ in range(2):
        for rows in torch.randperm(40).split(20):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(plain(images[rows]), labels[rows]).backward()
            optimizer.step()
    assert torch.equal(nets[0][0].weight, plain[0].weight), "and the others are not without"
    weights = [net[0].weight for net in nets]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(weights, 2))
    assert _half(plain, images, {"layers": "first"})["layers"] == ["1", "3"]
    assert _half(plain, images, {"layers": "last"})["layers"] == ["5"]


def test_an_attack_stays_within_its_size_and_raises_the_loss() -> None:
    from robustness import attacked

    torch.manual_seed(0)
    net, images, labels = torch.nn.Linear(9, 3), torch.rand(50, 9), torch.arange(50) % 3
    moved = attacked(net, images, labels, 0.1)
    assert (moved - images).abs().max() <= 0.1 + 1e-6 and moved.min() >= 0 and moved.max() <= 1
    loss = torch.nn.functional.cross_entropy(
        net(torch.stack([images, moved])).flatten(0, 1), labels.repeat(2), reduction="none"
    )
    assert bool((loss[50:] > loss[:50]).all())


def test_random_directions_push_as_far_as_the_regularizer() -> None:
    from models import build
    from robustness import RandomDirections

    from fold_lightning import FoldingRegularizer

    images, labels = torch.rand(40, 64), torch.arange(40) % 10
    pushes = []
    for kind in (None, FoldingRegularizer, RandomDirections):
        torch.manual_seed(0)
        net = build("mlp", "relu", 8, 3, 8)
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        if kind is not None:
            kind(share=1.0, warm_steps=0).push(net, images, labels)
        pushes.append(torch.cat([parameter.grad.flatten() for parameter in net[:6].parameters()]))
    task, folding, random = pushes[0], pushes[1] - pushes[0], pushes[2] - pushes[0]
    assert [folding.norm().item(), random.norm().item()] == pytest.approx([task.norm().item()] * 2, rel=1e-4)
    assert abs(torch.nn.functional.cosine_similarity(folding, random, dim=0)) < 0.3


@pytest.mark.slow
def test_the_benchmark_of_the_regularizer_gives_ratios(tmp_path: Path) -> None:
    small = ("--images", "128", "--pairs", "2", "--every", "1")
    page = benchmark("regularizer", tmp_path, *small, NETWORKS=(("mlp", 2, 8), ("cnn", 2, 8)))
    rows = columns(page, "network", "way", "time with / without")
    assert [row[:2] for row in rows[:2]] == [("mlp 2 x 8", "by hand, every 1 steps"), ("mlp 2 x 8", "flag")] and len(rows) == 4
    assert all(re.fullmatch(r"(1 / )?[\d.]+ \(.* - .*\)", ratio) for *_, ratio in rows)
