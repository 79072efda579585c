"""Do two numbers tell kinds of clothing apart, and do items turn into one another between them?

The source's convolutional variational autoencoder: convolutions 32-64-64-64 (3x3, the second of stride 2), a dense
layer of 32, a code of 2, Bernoulli pixels, batches of 16. Its loss is the mean cross-entropy of a pixel + 5e-4 x the
mean over both codes of twice the KL divergence, which for the sum over 784 pixels is a KL weight of 5e-4 x 784 = 0.392.
The dense layer is written as a convolution over the whole map, which it is. What differs: the decoder mirrors the
encoder (the source's has one dense layer and two transposed convolutions), Adam in place of RMSprop, the code's spread
is the same exp(log-variance / 2) in draw and divergence, and one row in six is trained on for 4 epochs (the source names
none), so that one core is enough.

The source shows pictures: transitions between shoes, bags and clothes over the plane of codes, and clusters by class.
This study draws the same from its own run, and puts numbers beside them.

    raeflow study fashion_vae

Measured on 2 cores that five other runs shared: 14 min, 549 s of them training. Mean squared
error 0.03113; 15 neighbours in the plane name the right kind of 66.3 % of test rows, against 55.5 % in the
plane of two principal components (boots 87 %, trousers 81 %, but shirts 16 %: they lie among coats and pullovers).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raeflow import Calibration, Data, Search, Study, Training

if TYPE_CHECKING:
    from raeflow.pipeline import Outcome
    from raeflow.report.codec import Codec

KINDS = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
CORNERS = (8, 9, 0, 1)
"""Bag, ankle boot, T-shirt and trouser: as far apart as clothes can be."""

STUDY = Study(
    name="fashion_vae",
    heads="error",
    committee=1,
    data=Data("fashion_mnist", split="hash", fractions=(0.17, 0.04, 0.04, 0.75)),
    variants=("vae",),
    search=Search(trials=1, selection="validation_loss"),
    training=Training(epochs=4, batch_size=16, patience=None),
    calibration=Calibration(method="quantile", quantile=0.99),
    hyper={
        "vae": {
            "backbone": "conv",
            "layers": (32, 64, 64, 64, 32),
            "kernels": (3, 3, 3, 3, 0),
            "strides": (1, 2, 1, 1, 1),
            "activation": "relu",
            "latent": 2,
            "likelihood": "bernoulli",
            "beta": 5e-4 * 784,
        }
    },
    refit=False,
)


def conclude(outcome: Outcome) -> str:
    """The pictures, how well a pixel is rebuilt and how well the plane of codes tells the kinds apart."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KNeighborsClassifier

    from raeflow.report.codec import Codec

    test, train = outcome.splits.test, outcome.splits.train
    assert test is not None and test.label is not None
    codec = Codec.of(outcome.detector)
    known = next(iter(train.batches(len(train))))
    assert known.label is not None
    shown, kinds = test.x[:5000], test.label[:5000].numpy()
    codes = codec.encode(shown)
    places = draw(outcome, codec, codes)
    neighbours = KNeighborsClassifier(15).fit(codec.encode(known.x), known.label.numpy())
    right = 100 * (neighbours.predict(codes) == kinds)
    pca = PCA(2, random_state=0).fit(flat := known.x.flatten(1).numpy())
    plain = KNeighborsClassifier(15).fit(pca.transform(flat), known.label.numpy()).predict(pca.transform(shown.flatten(1).numpy())) == kinds
    error = float(((codec.scaled(shown) - codec.rebuild(shown)) ** 2).mean())
    return "\n".join(
        [
            f"{'':58}{'source':>10}{'here':>10}",
            f"{'mean squared error of 5,000 test rows':58}{'-':>10}{error:>10.5f}",
            f"{'right kind among 15 neighbours in the plane, 5,000 rows (%)':58}{'pictures':>10}{right.mean():>10.1f}",
            f"{'the same in the plane of two principal components (%)':58}{'-':>10}{100 * plain.mean():>10.1f}",
            "",
            "right kind (%): " + ", ".join(f"{name} {right[kinds == kind].mean():.0f}" for kind, name in enumerate(KINDS)),
            *(f"picture  {place}" for place in places),
        ]
    )


def draw(outcome: Outcome, codec: Codec, codes: Any) -> list[str]:
    """The study's pictures, from the first test rows, whose codes (N, 2) these are; where they lie."""
    from raeflow.report import latentplots, rowplots

    test = outcome.splits.test
    assert test is not None and test.label is not None
    kinds = test.label[: len(codes)].numpy()
    first = [int((kinds == kind).argmax()) for kind in range(len(KINDS))]
    rows, corners = test.x[first], [first[kind] for kind in CORNERS]
    pairs = [first[a] for a in (7, 1, 0)], [first[b] for b in (8, 4, 5)]
    figures = {
        "reconstructions": latentplots.reconstructions({"row": codec.scaled(rows), "rebuilt": codec.rebuild(rows)}, KINDS),
        "codes": rowplots.latent_scatter(codes, kinds, KINDS),
        "plane": latentplots.latent_plane(codec.decode),
        "corners": latentplots.latent_corners(
            codec.decode, codes[corners], 8, [KINDS[kind] for kind in CORNERS], codec.scaled(test.x[corners])
        ),
        "paths": latentplots.latent_path(
            codec.decode, codes[pairs[0]], codes[pairs[1]], rows=(codec.scaled(test.x[pairs[0]]), codec.scaled(test.x[pairs[1]]))
        ),
    }
    return [str(outcome.picture(name, figure)) for name, figure in figures.items()]
