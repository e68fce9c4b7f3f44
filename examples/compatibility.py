"""Train models of packages that ship LightningModules under ``FOLD_LIGHTNING=1``, and print what the monitor measured.

    python examples/compatibility.py              # every package that is installed
    python examples/compatibility.py darts chemprop

Each function below is a package's usual training code on tiny synthetic data, without a line for the monitor. It runs in two
processes, with and without the variable, whose trained weights are compared. The script prints a table in Markdown, and with
`--values` the last value of each tag. `docs/compatibility.md` has the table and the command that installs the packages.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from fold_lightning.callbacks.measures import PREFIXES

MAX_REFUSAL = 260
"""Most characters of a message in the table."""

QUIET: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def monthly_sales() -> Any:
    """Return a table with four series of 60 months."""
    import pandas

    month = np.tile(np.arange(60), 4)
    series = np.repeat(np.arange(4), 60)
    sales = 5 + series + np.sin(month / 6) + np.random.default_rng(0).normal(0, 0.1, len(month))
    price = np.cos(month / 5)
    shop = np.array([f"shop {number}" for number in series])
    return pandas.DataFrame({"month": month, "shop": shop, "sales": sales.astype("float32"), "price": price.astype("float32")})


def forecast_with(name: str, **options: Any) -> nn.Module:
    """Train a model of pytorch-forecasting, as its tutorials do."""
    import pytorch_forecasting
    from lightning.pytorch import Trainer

    model_class = getattr(pytorch_forecasting, name)
    takes_covariates = name != "NBeats"
    training = pytorch_forecasting.TimeSeriesDataSet(
        monthly_sales()[lambda table: table.month < 54],
        time_idx="month",
        target="sales",
        group_ids=["shop"],
        max_encoder_length=12,
        max_prediction_length=6,
        time_varying_unknown_reals=["sales"],
        static_categoricals=["shop"] if takes_covariates else [],
        time_varying_known_reals=["month", "price"] if takes_covariates else [],
        add_relative_time_idx=takes_covariates,
    )
    validation = pytorch_forecasting.TimeSeriesDataSet.from_dataset(
        training, monthly_sales(), predict=False, min_prediction_idx=30
    )
    model = model_class.from_dataset(training, learning_rate=0.01, **options)
    loaders = training.to_dataloader(train=True, batch_size=32), validation.to_dataloader(train=False, batch_size=32)
    Trainer(max_epochs=2, gradient_clip_val=0.1, **QUIET).fit(model, *loaders)
    return model


def temporal_fusion_transformer() -> nn.Module:
    return forecast_with("TemporalFusionTransformer", hidden_size=8, attention_head_size=1, hidden_continuous_size=4)


def deep_ar() -> nn.Module:
    return forecast_with("DeepAR", hidden_size=8, rnn_layers=1)


def n_beats() -> nn.Module:
    return forecast_with("NBeats", widths=[16, 32])


def tabular() -> nn.Module:
    from pytorch_tabular import TabularModel
    from pytorch_tabular.config import DataConfig, OptimizerConfig, TrainerConfig
    from pytorch_tabular.models import CategoryEmbeddingModelConfig

    table = monthly_sales()
    table["many"] = (table.sales > 6).astype(int)
    model = TabularModel(
        data_config=DataConfig(target=["many"], continuous_cols=["price", "month"], categorical_cols=["shop"]),
        model_config=CategoryEmbeddingModelConfig(task="classification", layers="16-16"),
        optimizer_config=OptimizerConfig(),
        trainer_config=TrainerConfig(
            max_epochs=2, batch_size=32, accelerator="cpu", progress_bar="none", load_best=False, checkpoints=None
        ),
        verbose=False,
    )
    model.fit(train=table)
    return model.model


def single_cells() -> nn.Module:
    import scvi
    from lightning.pytorch.loggers import TensorBoardLogger

    scvi.settings.seed = 0
    cells = scvi.data.synthetic_iid(batch_size=100, n_genes=30)
    scvi.model.SCVI.setup_anndata(cells, batch_key="batch", labels_key="labels")
    model = scvi.model.SCVI(cells, n_hidden=16, n_latent=4)
    model.train(max_epochs=2, check_val_every_n_epoch=1, logger=TensorBoardLogger("."), accelerator="cpu")
    return model.module


def language_model() -> nn.Module:
    from lightning.pytorch import LightningModule, Trainer
    from torch.utils.data import DataLoader
    from transformers import BertConfig, BertForSequenceClassification

    class Classifier(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
            self.model = BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=3, **sizes))

        def forward(self, **batch: torch.Tensor) -> Any:
            return self.model(**batch)

        def training_step(self, batch: dict[str, torch.Tensor], _number: int) -> torch.Tensor:
            return self(**batch).loss

        def validation_step(self, batch: dict[str, torch.Tensor], _number: int) -> None:
            self.log("val_loss", self(**batch).loss)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    ids = torch.randint(50, (96, 7))
    items = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row[0] % 3} for row in ids]
    model = Classifier()
    Trainer(max_epochs=2, **QUIET).fit(model, DataLoader(items, batch_size=16, shuffle=True), DataLoader(items, batch_size=16))
    return model


def darts_model(name: str, **options: Any) -> nn.Module:
    """Train a model of darts, which makes its own Trainer."""
    import darts.models
    from darts.utils.timeseries_generation import sine_timeseries

    model = getattr(darts.models, name)(
        12, 6, n_epochs=2, batch_size=16, log_tensorboard=True, work_dir=".", pl_trainer_kwargs=QUIET, **options
    )
    model.fit(sine_timeseries(length=120), val_series=sine_timeseries(length=60))
    return model.model


def darts_n_hits() -> nn.Module:
    return darts_model("NHiTSModel", num_layers=2, layer_widths=16)


def darts_transformer() -> nn.Module:
    return darts_model("TransformerModel", d_model=8, nhead=2, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=16)


def neural_forecast() -> nn.Module:
    from lightning.pytorch.loggers import TensorBoardLogger
    from neuralforecast import NeuralForecast
    from neuralforecast.models import NHITS

    table = monthly_sales().rename(columns={"month": "ds", "shop": "unique_id", "sales": "y"}).drop(columns="price")
    options = {"max_steps": 20, "val_check_steps": 10, "logger": TensorBoardLogger("."), **QUIET}
    forecast = NeuralForecast([NHITS(h=6, input_size=12, mlp_units=3 * [[16, 16]], **options)], freq=1)
    forecast.fit(table, val_size=12)
    return forecast.models[0]


def molecules() -> nn.Module:
    from chemprop import data, models
    from chemprop import nn as layers
    from lightning.pytorch import Trainer

    smiles = ["C" * length + end for length in range(1, 13) for end in ("O", "N", "Cl", "(=O)O", "c1ccccc1")]
    points = [data.MoleculeDatapoint.from_smi(smile, [float(len(smile))]) for smile in smiles]
    model = models.MPNN(
        layers.BondMessagePassing(d_h=16), layers.MeanAggregation(), layers.RegressionFFN(input_dim=16, hidden_dim=16)
    )
    loaders = [data.build_dataloader(data.MoleculeDataset(points), batch_size=16, shuffle=shuffle) for shuffle in (True, False)]
    Trainer(max_epochs=2, **QUIET).fit(model, *loaders)
    return model


MODELS: dict[str, list[Callable[[], nn.Module]]] = {
    "pytorch-forecasting": [temporal_fusion_transformer, deep_ar, n_beats],
    "pytorch-tabular": [tabular],
    "scvi-tools": [single_cells],
    "transformers": [language_model],
    "darts": [darts_n_hits, darts_transformer],
    "neuralforecast": [neural_forecast],
    "chemprop": [molecules],
}


def train(name: str) -> None:
    """Train a model, and print its class and a hash of its weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    (function,) = (function for functions in MODELS.values() for function in functions if function.__name__ == name)
    model = function()
    digest = hashlib.blake2b(digest_size=16)
    for weights in model.state_dict().values():
        if isinstance(weights, torch.Tensor):
            digest.update(weights.cpu().numpy().tobytes())
    inner = next(iter(model.children())) if name == "language_model" else model
    print(f"trained {type(inner).__name__} {digest.hexdigest()}")


def run(function: Callable[[], nn.Module], folder: Path, variable: str) -> tuple[str, str, str]:
    """Return the name of a trained model's class, a hash of its weights, and the output of its process."""
    folder.mkdir()
    command = [sys.executable, __file__, "--train", function.__name__]
    environment = os.environ | {"FOLD_LIGHTNING": variable, "COLUMNS": "1000"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    trained = re.search(r"^trained (\w+) (\w+)$", done.stdout, re.MULTILINE)
    said = done.stdout + done.stderr
    return (trained[1], trained[2], said) if trained else (function.__name__, "", said)


def logged(folder: Path) -> tuple[dict[str, str], dict[str, float]]:
    """Return the monitor's choices and the last values of its tags, from the TensorBoard log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    chosen, values = dict[str, str](), dict[str, float]()
    for path in folder.rglob("hparams.yaml"):
        hyperparameters = yaml.load(path.read_text(), yaml.BaseLoader) or {}
        chosen |= hyperparameters.get("folding_monitor", {})
    for path in folder.rglob("events.out.*"):
        events = EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            if tag.startswith((*PREFIXES, "monitor/")):
                values[tag] = events.Scalars(tag)[-1].value
    return chosen, values


def tags_in_short(values: dict[str, float]) -> str:
    """Return the number of tags in each tag folder, as text."""
    folders = Counter(tag.split("/")[0] for tag in values)
    return ", ".join(f"{count} {folder}" for folder, count in folders.items())


def refusals(said: str) -> str:
    """Return the monitor's messages about what it does not measure."""
    lines = re.findall(r"(?:FoldingMonitor (?:added|could)|fold_lightning leaves out).*", said)
    in_short = [line if len(line) < MAX_REFUSAL else f"{line[:MAX_REFUSAL].rstrip()} ..." for line in dict.fromkeys(lines)]
    return " ".join(in_short).replace("|", r"\|")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", nargs="*", help=f"of {', '.join(MODELS)}; all by default")
    parser.add_argument("--values", action="store_true", help="print the last value of each tag too")
    parser.add_argument("--output", action="store_true", help="print what each training writes too")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(args.train)
        return
    print(
        "| package | model | varied, held fixed | method | segments | tags, or why not | same weights |\n" + 7 * "| --- " + "|"
    )
    for package in args.packages or MODELS:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            print(f"| {package} | not installed |{5 * ' |'}")
            continue
        for function in MODELS[package]:
            with tempfile.TemporaryDirectory() as folder:
                _, without, _ = run(function, Path(folder, "without"), "0")
                name, weights, said = run(function, Path(folder, "with"), "1")
                chosen, values = logged(Path(folder, "with"))
            same = ("yes" if weights == without else "no") if weights else "failed"
            segments = chosen.get("segments", "").split(" between")[0].split(",")[0]
            what = ". ".join(filter(None, (tags_in_short(values), refusals(said))))
            how = chosen.get("inputs", "the first tensor" if chosen else "")
            print(
                f"| {package} {version} | {name} | {how} | {chosen.get('method', '')} | {segments} | {what} | {same} |",
                flush=True,
            )
            if args.values:
                print(*(f"{tag} {value:.4g}" for tag, value in values.items()), chosen, sep="\n")
            if args.output:
                print(said)


if __name__ == "__main__":
    main()
