"""A classifier that starts from a trained encoder."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from raeflow import variants
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.pretrain import Classifier, accuracy, cross_entropy, fit_classifier
from raeflow.study import Training
from raeflow.training import fit
from raeflow.variants import autoencoder
from raeflow.variants._contract import Latent, Variant

SHAPE = (1, 8, 8)
WITH_CODES = [name for name in variants.names() if isinstance(variants.build(name, SHAPE, {}), Latent)]


def digits() -> tuple[Tensor, Tensor]:
    """Scaled rows and classes."""
    found = load_digits()
    x = torch.tensor(found.data, dtype=torch.float32).reshape(-1, *SHAPE) / 16
    return x, torch.tensor(found.target, dtype=torch.int64)


def made(**values: object) -> Variant:
    torch.manual_seed(0)
    model: Variant = variants.build("autoencoder", SHAPE, {"latent": 16, **values})
    return model.eval()


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("name", WITH_CODES)
@pytest.mark.parametrize("shape", [(5,), (2, 9), (1, 8, 8)], ids=str)
def test_any_variant_with_codes_starts_a_classifier(name: str, shape: tuple[int, ...]) -> None:
    model = variants.build(name, shape, {}).eval()
    classifier = Classifier(model, shape, 3)
    x = torch.rand(4, *shape)
    codes = model.encode(x)
    assert torch.equal(classifier(x), torch.zeros(4, 3)), "the new layer starts at zero"
    assert classifier.head.in_features == codes.shape[1]
    torch.testing.assert_close(classifier.coder.encode(x), codes)
    before = weights(model)
    fit_classifier(classifier, x, torch.tensor([0, 1, 2, 0]), epochs=4)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()), "the variant stays as it was"
    assert not torch.equal(classifier.coder.encode(x), codes)


def test_only_what_a_code_is_made_of_learns() -> None:
    x, label = digits()
    classifier = Classifier(made(), SHAPE, 10)
    own = sum(p.numel() for p in made().encoder.parameters())
    assert sum(p.numel() for p in classifier.encoder_parameters()) == own
    before = weights(classifier)
    fit_classifier(classifier, x[:200], label[:200], epochs=2)
    moved = {k for k, v in classifier.state_dict().items() if not torch.equal(before[k], v)}
    assert moved == {k for k in before if k.startswith(("coder.encoder", "head"))}


def test_a_frozen_encoder_is_multinomial_regression_on_its_codes() -> None:
    """scikit-learn's, without penalty, has the same lowest loss."""
    x, label = digits()
    x, label = x[:600], label[:600]
    model = made(latent=4)
    with torch.no_grad():
        codes = model.encode(x).numpy()
    best = LogisticRegression(C=1e6, max_iter=5000).fit(codes, label.numpy())
    expected = -best.predict_log_proba(codes)[range(600), label.numpy()].mean()
    classifier = Classifier(model, SHAPE, 10)
    before = weights(classifier.coder)
    history = fit_classifier(classifier, x, label, epochs=400, frozen=400, lr=0.3, batch_size=600)
    assert all(torch.equal(before[k], v) for k, v in classifier.coder.state_dict().items())
    assert history[0].loss == pytest.approx(math.log(10), rel=1e-4)
    assert cross_entropy(classifier, x, label) == pytest.approx(expected, rel=0.1)
    assert cross_entropy(classifier, x, label) > expected * 0.999


def test_the_encoder_joins_after_the_frozen_epochs() -> None:
    x, label = digits()
    frozen, both = (Classifier(made(), SHAPE, 10) for _ in range(2))
    fit_classifier(frozen, x[:100], label[:100], epochs=3, frozen=3)
    fit_classifier(both, x[:100], label[:100], epochs=4, frozen=3)
    fresh = weights(Classifier(made(), SHAPE, 10))
    assert torch.equal(frozen.state_dict()["coder.encoder.0.weight"], fresh["coder.encoder.0.weight"])
    assert not torch.equal(both.state_dict()["coder.encoder.0.weight"], fresh["coder.encoder.0.weight"])


def test_the_same_seed_gives_the_same_weights() -> None:
    x, label = digits()
    found = []
    for seed, dice in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(dice)
        model = made()
        torch.manual_seed(dice)
        classifier = Classifier(model, SHAPE, 10)
        fit_classifier(classifier, x[:150], label[:150], epochs=2, seed=seed)
        found.append(weights(classifier))
    one, same, other = found
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_the_weights_of_the_lowest_validation_loss_are_kept() -> None:
    x, label = digits()
    held = (x[500:700], label[500:700])
    classifier = Classifier(made(), SHAPE, 10)
    history = fit_classifier(classifier, x[:60], label[:60], held, epochs=200, patience=5, lr=1e-2)
    losses = [epoch.validation_loss for epoch in history]
    assert len(history) < 200 and losses.index(min(losses)) == len(losses) - 6, "patience ends it"
    assert cross_entropy(classifier, *held) == pytest.approx(min(losses), rel=1e-5)
    assert math.isnan(fit_classifier(classifier, x[:60], label[:60], epochs=1)[0].validation_loss)


def test_pretraining_helps_where_labels_are_few() -> None:
    """Forty labelled digits: with the encoder frozen, codes learned from 1,400 rows beat those of random weights; the
    accuracy is that of counting."""
    x, label = digits()
    spec = RowSpec(("pixels",), "list", SHAPE, "float32")
    splits = Splits(spec, fit_scaling("none", SHAPE, x.dtype, [x]), Rows(x[:1400]), Rows(x[1400:1500]), None, None)
    hyper = dataclasses.asdict(autoencoder.Hyper(latent=16, backbone="mlp", layers=(64,), output="sigmoid"))
    trained = fit("autoencoder", hyper, splits, Training(epochs=30, batch_size=64, patience=None, device="cpu")).model()
    shares = []
    for model in (trained, made(backbone="mlp", layers=(64,))):
        classifier = Classifier(model, SHAPE, 10)
        fit_classifier(classifier, x[:40], label[:40], epochs=300, frozen=300, lr=1e-2)
        shares.append(accuracy(classifier, x[1500:], label[1500:]))
        right = (classifier(x[1500:]).argmax(1) == label[1500:]).sum()
        assert shares[-1] == pytest.approx(int(right) / len(x[1500:]))
    assert shares[0] > shares[1] + 0.05


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    x, label = digits()
    classifier = Classifier(made(), SHAPE, 10)
    for arguments, settings, said in [
        ((x[:4, :, :7], label[:4]), {}, r"\(4, 1, 7, 8\).*\(N, 1, 8, 8\)"),
        ((x[:4], label[:3]), {}, r"\(3,\).*4 rows"),
        ((x[:4], label[:4] + 10), {}, "span 10 to"),
        ((x[:4], label[:4].float()), {}, "float32"),
        ((x[:0], label[:0]), {}, "scaled rows"),
        ((x[:4], label[:4]), {"frozen": 60}, "frozen=60"),
        ((x[:4], label[:4]), {"lr": 0.0}, "lr=0.0"),
        ((x[:4], label[:4]), {"patience": 3}, "patience=3"),
    ]:
        with pytest.raises(RaeflowError, match=said):
            fit_classifier(classifier, *arguments, **settings)  # type: ignore[arg-type]
    with pytest.raises(RaeflowError, match="classes=1"):
        Classifier(made(), SHAPE, 1)
    with pytest.raises(RaeflowError, match="no codes"):
        Classifier(nn.Linear(2, 2), (2,), 3)
