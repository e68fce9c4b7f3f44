"""Distinct codes over epochs at two learning rates ("ReLU Code Space", Shepeleva et al. 2020).

    python examples/papers/code_space.py [--data-dir FOLDER] [--seeds 5] [--paper-size] [--output-dir papers/code_space]

Counts, after each epoch, how many activation regions the training images occupy by the fully connected layers of a VGG16 (512;
256-256; 256-128-128) and by the encoder of an autoencoder (128-64-32): all images and those classified correctly, by layer and by
class, with the Hamming distances within and between classes. By default VGG16's convolutions are trained once, on images of a
smaller side, and every set of layers is trained on what they give; with `--paper-size` everything is trained together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from experiment import Experiment, Part, Split, accuracy
from lightning.pytorch import Callback, LightningModule, Trainer
from models import vgg16
from report import Finding, Row, Table, differences, moments, spread, values, verdict
from torch import Tensor, nn
from torch.nn import functional as F

from fold_lightning import CodeDistances, DistinctCodes, activation_codes, hamming_distance, region_graph


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        images: Training images, of which codes are counted.
        side: Pixels along a side of VGG16's images.
        whole: Whether VGG16 is trained as a whole.
        convolution_epochs: Epochs of its convolutions where it is not.
        epochs: Epochs of the layers that are counted.
        drawn: Images whose distances are taken.
    """

    images: int
    side: int
    whole: bool
    convolution_epochs: int
    epochs: int
    drawn: int


SIZES = {
    "smallest": Size(60, 8, False, 1, 2, 40),
    "default": Size(1000, 14, False, 3, 8, 500),
    "paper": Size(60_000, 32, True, 0, 50, 5000),
}

NETWORKS = {
    "VGG16, 512": (512,),
    "VGG16, 256-256": (256, 256),
    "VGG16, 256-128-128": (256, 128, 128),
    "autoencoder": (128, 64, 32),
}
"""Widths of the layers that are counted."""

RATES = (0.1, 0.001)
"""Learning rates of the paper; SGD in batches of 16 is this project's choice."""

ALIKE = 0.02
"""Difference of test accuracy up to which two learning rates count as alike."""

NOTE = (
    "Shepeleva et al. 2020, arXiv 2005.09903. The paper's statements are those of its abstract, definitions and Lemma 1; its figures "
    "are curves that could not be read as numbers. It uses MNIST and CIFAR-10."
)


class CountCodes(Callback):
    """Counts the codes of the training images before training and after each epoch.

    Args:
        train: Inputs and labels.
        drawn: Inputs whose distances are taken.
        classifies: Whether outputs are logits.
        shown: Epochs whose codes are kept on two axes.

    Attributes:
        diverged: Whether the weights are no numbers any more, which ends the training.
    """

    def __init__(self, train: Split, drawn: int, classifies: bool, shown: set[int]) -> None:
        self.train, self.drawn, self.classifies, self.shown = train, drawn, classifies, shown
        self.diverged = False
        self.history: list[Row] = []
        self.clusters: list[dict[str, Any]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.count(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.diverged = not all(weights.isfinite().all() for weights in pl_module.parameters())
        if self.diverged:
            trainer.should_stop = True
        else:
            self.count(pl_module)

    def count(self, module: LightningModule) -> None:
        """Keep the numbers of an epoch, and in some epochs the codes of some images on two axes."""
        inputs, labels = (column.to(module.device) for column in self.train)
        codes = activation_codes(module.net, inputs, layers="counted.*")
        distinct, distances = DistinctCodes(10), CodeDistances(10, nearest=True)
        correct = self._correct(module, inputs, labels) if self.classifies else None
        distinct.update(codes, labels=labels, correct=correct)
        distances.update(codes.bits[: self.drawn], labels[: self.drawn])
        layers = [int(number) for number in distinct.per_layer().values()]
        found = distances.compute()
        row = {"distinct": int(distinct.compute()), "layers": layers, "per_class": distinct.per_class().double().mean().item()}
        row |= {"correct": int(distinct.correct()), "classes": distinct.per_class().tolist()}
        self.history.append(row | {name: value.item() for name, value in found.items()})
        epoch = len(self.history) - 1
        if epoch in self.shown:
            axes = [_two_axes(codes.bits[: self.drawn // 3, columns]) for columns in codes.layers.values()]
            self.clusters.append({"epoch": epoch, "layers": axes, "labels": labels[: self.drawn // 3].tolist()})

    @staticmethod
    def _correct(module: LightningModule, inputs: Tensor, labels: Tensor) -> Tensor:
        training = module.training
        with torch.no_grad():
            module.eval()
            correct = torch.cat([module(some).argmax(1) for some in inputs.split(1000)]) == labels
        module.train(training)
        return correct


def _two_axes(bits: Tensor) -> list[list[float]]:
    """Return codes along their two principal axes, rounded, with signs that do not depend on the solver."""
    centered = bits.double() - bits.double().mean(0)
    axes = torch.linalg.svd(centered, full_matrices=False).Vh[:2]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return [[round(value, 3) for value in point] for point in (centered @ axes.T).tolist()]


def counted(inputs: int, widths: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers of these widths, each with a ReLU."""
    layers = [layer for a, b in pairwise((inputs, *widths)) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers)


def autoencoder(inputs: int, widths: tuple[int, ...]) -> nn.Sequential:
    """Return an encoder of these widths, which is counted, and the same way back."""
    back = counted(widths[-1], (*widths[-2::-1], inputs))[:-1]
    return nn.Sequential(OrderedDict(counted=counted(inputs, widths), decoder=back))


def adjacency() -> Row:
    """Return two regions one unit apart that do not touch: a network of one input and three units."""
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1), nn.ReLU()).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [1.0]]))
        net[0].bias.copy_(torch.tensor([0.0, 2.0]))
        net[2].weight.copy_(torch.tensor([[-2.0, 1.0]]))
        net[2].bias.fill_(-0.5)
    points = torch.tensor([[-1.75], [2.0]], dtype=torch.float64)
    codes = activation_codes(net, points).bits
    graph = region_graph(net, points[:1], progress=False)
    one, other = graph.find(codes).tolist()
    return {
        "codes": " and ".join("".join(str(int(bit)) for bit in code) for code in codes),
        "hamming": int(hamming_distance(codes[0], codes[1])),
        "faces": graph.distance(one, other),
        "regions": graph.num_regions,
    }


def last_table(rows: list[Row]) -> Table:
    """Return what the codes tell after training, of trainings that did not diverge."""
    header = [
        "network",
        "rate",
        "trained",
        "test accuracy (autoencoder: loss)",
        "distinct codes before",
        "after",
        "of correct images",
    ]
    header += ["by layer", "mean of a class", "distance within", "between", "nearest of the same class"]
    lines = []
    for network, rate in dict.fromkeys((row["network"], row["rate"]) for row in rows):
        begun = [row for row in rows if row["network"] == network and row["rate"] == rate]
        some = [row for row in begun if not row["diverged"]]
        if not some:
            lines.append([network, f"{rate:g}", f"0 of {len(begun)}", *["-"] * (len(header) - 3)])
            continue
        last = [row["history"][-1] for row in some]
        layers = [moments([row["layers"][i] for row in last])[0] for i in range(len(NETWORKS[network]))]
        correct = "-" if network == "autoencoder" else spread(values(last, "correct"))
        cells = [spread(values(some, "test")), spread([row["history"][0]["distinct"] for row in some])]
        cells += [spread(values(last, "distinct")), correct, ", ".join(f"{number:.0f}" for number in layers)]
        cells += [spread(values(last, name)) for name in ("per_class", "within", "between", "nearest")]
        lines.append([network, f"{rate:g}", f"{len(some)} of {len(begun)}", *cells])
    text = (
        "Trainings whose weights diverged are left out. Distances are shares of units; the last column is the share of images whose "
        "nearest other code is of their class."
    )
    return Table("Codes after training", text, header, lines)


def epochs_table(rows: list[Row]) -> Table:
    """Return distinct codes over the epochs."""
    last = max(len(row["history"]) for row in rows) - 1
    shown = sorted({0, 1, 2, last // 4, last // 2, last} & set(range(last + 1)))
    lines = []
    for network, rate in dict.fromkeys((row["network"], row["rate"]) for row in rows):
        some = [row["history"] for row in rows if row["network"] == network and row["rate"] == rate]
        cells = [spread([history[epoch]["distinct"] for history in some if epoch < len(history)]) for epoch in shown]
        lines.append([network, f"{rate:g}", *cells])
    return Table("Distinct codes over epochs", "", ["network", "rate", *(f"after {epoch}" for epoch in shown)], lines)


def findings(rows: list[Row], example: Row, images: int) -> list[Finding]:
    """Return the paper's statements beside what was found."""
    found = []
    for network in NETWORKS:
        trained = [row for row in rows if row["network"] == network and not row["diverged"]]
        some = [row | {"distinct": row["history"][-1]["distinct"]} for row in trained]
        codes = differences(some, "distinct", {"rate": RATES[0]}, {"rate": RATES[1]})
        tests = differences(some, "test", {"rate": RATES[0]}, {"rate": RATES[1]})
        alike = network != "autoencoder" and bool(tests) and abs(moments(tests)[0]) <= ALIKE
        differs = verdict(codes) != "not decided by these seeds"
        reached = [row["history"][-1]["distinct"] for row in some]
        found.append(
            Finding(
                f"Codes hold information besides accuracy (abstract): alike accuracy, other codes; {network}.",
                f"Rate .1 less .001: {spread(codes)} of {images:,} codes, "
                f"{spread(tests)} of {'loss' if network == 'autoencoder' else 'test accuracy'}.",
                "agrees" if alike and differs else "accuracies differ too" if differs else "not decided by these seeds",
                "Nearly every image has a region of its own, so the number saturates."
                if min(reached, default=0) > 0.99 * images
                else "",
            )
        )
    found.append(
        Finding(
            "Regions are adjacent iff their codes are one unit apart (Lemma 1).",
            f"In a network of one input and three units the codes {example['codes']} are {example['hamming']} unit apart, and "
            f"{example['faces']} faces lie between their regions (of {example['regions']} in all).",
            "disagrees" if example["hamming"] == 1 and example["faces"] > 1 else "agrees",
            "relu(x), relu(x + 2) and relu(relu(x + 2) - 2 relu(x) - 1/2): the third unit switches on and off again between them; "
            "networks of one input and two units have no such pair. "
            "Codes one unit apart are necessary for a shared face and not sufficient; wherever a network folds there are such pairs.",
        )
    )
    return found


def draw(figure: Any, rows: list[Row]) -> None:
    """Draw distinct codes over epochs, and the clusters of codes by layer and epoch of one network."""
    figure.set_size_inches(13, 8)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1, 1.7])
    for network, axis in zip(NETWORKS, upper.subplots(1, len(NETWORKS)), strict=True):
        for rate, color in zip(RATES, ("tab:red", "tab:blue"), strict=True):
            for number, row in enumerate(row for row in rows if row["network"] == network and row["rate"] == rate):
                for name, style in (("distinct", "-"), ("correct", ":")):
                    if name == "correct" and network == "autoencoder":
                        continue
                    label = f"{rate:g}, {'all' if name == 'distinct' else 'correct'}" if not number else None
                    axis.plot([epoch[name] for epoch in row["history"]], style, color=color, alpha=0.6, label=label)
        axis.set(title=network, xlabel="epoch", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    upper.suptitle("distinct codes")
    shown = [row for row in rows if row["seed"] == 0 and row["network"] == "VGG16, 256-128-128"]
    epochs = shown[0]["clusters"]
    axes = lower.subplots(3, len(epochs) * len(shown), squeeze=False)
    pictures = [(row["rate"], epoch) for row in shown for epoch in row["clusters"]]
    for column, (rate, epoch) in enumerate(pictures):
        for layer, axis in enumerate(axes[:, column]):
            x, y = zip(*epoch["layers"][layer], strict=True)
            axis.scatter(x, y, c=epoch["labels"], cmap="tab10", s=4)
            axis.set(xticks=[], yticks=[])
        axes[0, column].set_title(f"{rate:g}, epoch {epoch['epoch']}", fontsize=8)
    for layer, axis in enumerate(axes[:, 0]):
        axis.set_ylabel(f"layer {layer + 1}")
    lower.suptitle("codes of VGG16, 256-128-128, along their principal axes, by class")


def main() -> None:
    experiment = Experiment(__file__, __doc__, SIZES)
    size: Size = experiment.size
    train, test = experiment.load(size.images, 1000)
    pictures = [(_resized(images, size.side), labels) for images, labels in (train, test)]
    kept = experiment.folder / "features.pt"
    shown = {0, min(2, size.epochs), size.epochs}

    def convolutions() -> Row:
        net = vgg16(size.side)
        experiment.fit(net, *pictures, epochs=size.convolution_epochs, rate=1e-3, batch_size=64)
        with torch.no_grad():
            features = [torch.cat([net.body(some).flatten(1) for some in images.split(500)]) for images, _ in pictures]
        mean, deviation = features[0].mean(0), features[0].std(0) + 1e-3
        experiment.save(kept, [(some - mean) / deviation for some in features])
        return {"test": accuracy(net, pictures[1])}

    def codes(network: str, rate: float, seed: int) -> Row:
        splits: list[Split] = [train, test]
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
        if network == "autoencoder":
            net, loss = autoencoder(train[0].shape[1], NETWORKS[network]), F.mse_loss
        else:
            widths = NETWORKS[network]
            body = OrderedDict[str, nn.Module]()
            if size.whole:
                splits, body = pictures, OrderedDict(body=vgg16(size.side).body, flatten=nn.Flatten())
            else:
                splits = [(features, labels) for features, (_, labels) in zip(torch.load(kept), pictures, strict=True)]
            head = {"counted": counted(512, widths), "logits": nn.Linear(widths[-1], 10)}
            net = nn.Sequential(OrderedDict(**body, **head))
        counter = CountCodes((splits[0][0], train[1]), size.drawn, network != "autoencoder", shown if seed == 0 else set())
        targets = [(x, x) for x, _ in splits] if network == "autoencoder" else splits
        how = {"optimizer": torch.optim.SGD, "rate": rate, "batch_size": 16}
        experiment.fit(net, *targets, epochs=size.epochs, loss=loss, callbacks=[counter], **how)
        course = {"history": counter.history, "clusters": counter.clusters, "diverged": counter.diverged}
        if counter.diverged:
            return course
        with torch.no_grad():
            tested = loss(net(splits[1][0]), splits[1][0]).item() if network == "autoencoder" else accuracy(net, splits[1])
        last = {f"last_{name}": value for name, value in counter.history[-1].items()}
        return {"test": tested, **last, **course}

    grid = [{"network": name, "rate": rate, "seed": seed} for name in NETWORKS for rate in RATES for seed in experiment.seeds]
    first = [] if size.whole else [Part("convolutions", convolutions, [{}])]
    rows = experiment.run([*first, Part("adjacency", adjacency, [{}]), Part("codes", codes, grid)])
    found = findings(rows["codes"], rows["adjacency"][0], len(train[0]))
    title = "ReLU Code Space: A Basis for Rating Network Quality Besides Accuracy"
    tables = [last_table(rows["codes"]), epochs_table(rows["codes"])]
    experiment.write(title, rows, tables, found, lambda figure: draw(figure, rows["codes"]), NOTE)


def _resized(images: Tensor, side: int) -> Tensor:
    """Return flattened square images of another side, by means where it is smaller and by a border where it is larger."""
    own = int(images.shape[1] ** 0.5)
    square = images.view(-1, 1, own, own)
    if side < own:
        return F.adaptive_avg_pool2d(square, side).flatten(1)
    before, after = (side - own) // 2, side - own - (side - own) // 2
    return F.pad(square, (before, after, before, after)).flatten(1)


if __name__ == "__main__":
    main()
