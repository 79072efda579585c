"""Does the published convolutional autoencoder with 20 latent numbers reach its published loss?

Convolutions of strides 2, 2 and a last one of 7x7 over the whole map, a linear code of 20, Adam, batches
of 64, 20 epochs on MNIST. The source prints a validation MSE of 0.007516 and a threshold (mean + std of
the losses of batches) of 0.008046. Beside them this study prints the threshold on rows, and how well
each digit, trained alone, is told from the nine others.

    raeflow study mnist_latent

Measured on one of 2 shared cores: 9 min 21 s; validation MSE 0.007055, threshold 0.007532 on batches and
0.011386 on rows, mean one-against-rest AUROC 0.9611 (8: 0.8975 at the least, 1: 0.9991 at the most).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raeflow import Calibration, Data, Search, Study, Training

if TYPE_CHECKING:
    from raeflow.pipeline import Outcome

STUDY = Study(
    name="mnist_latent",
    data=Data("mnist", fractions=(0.84, 0.08, 0.08, 0.0)),
    variants=("autoencoder",),
    search=Search(trials=1, selection="validation_loss"),
    training=Training(epochs=20, batch_size=64, patience=None),
    calibration=Calibration(method="mean_std", k=1.0),
    hyper={"autoencoder": {"lr": 2e-3}},
    refit=False,
)


def conclude(outcome: Outcome) -> str:
    """Published figures beside ours, and one class against the rest."""
    import torch

    from raeflow.calibration import calibrate

    detector, splits = outcome.detector, outcome.splits
    best = outcome.trials[0]
    assert splits.calibrate is not None and best.validation_loss is not None
    losses = torch.from_numpy(detector.score(splits.calibrate.x))
    batch = calibrate([losses], Calibration(per="batch", batch_size=64))
    row = detector.threshold
    lines = [
        f"{'':38}{'source':>10}{'here':>10}",
        f"{'validation MSE after 20 epochs':38}{0.007516:>10.6f}{best.validation_loss:>10.6f}",
        f"{'threshold, losses of 64-row batches':38}{0.008046:>10.6f}{batch.value:>10.6f}",
        f"{'threshold, losses of rows':38}{'-':>10}{row.value:>10.6f}",
        f"{'alerts on the test split, rows':38}{'-':>10}{100 * _alerts(outcome):>9.2f}%",
        "",
        "one digit normal, nine anomalous (AUROC on the test split)",
        *one_against_rest(outcome.study),
    ]
    return "\n".join(lines)


def _alerts(outcome: Outcome) -> float:
    assert outcome.splits.test is not None
    return float(outcome.detector.predict(outcome.splits.test.x.numpy()).mean())


def one_against_rest(study: Study) -> list[str]:
    """Train the same network on each digit alone; AUROC and AP of the other nine."""
    from raeflow import variants
    from raeflow.data import load, resolve
    from raeflow.metrics import auroc, average_precision
    from raeflow.training import fit, scores

    lines, found = [], []
    for digit in range(10):
        splits = load(resolve(Data("mnist", normal=[("label", "==", digit)], fractions=study.data.fractions)))
        assert splits.test is not None and splits.test.anomaly is not None
        published = variants.get("autoencoder").published(splits.spec.shape)
        fitted = fit("autoencoder", vars(published), splits, study.training, study.seed)
        strange = scores(fitted.model(), splits.scaling, splits.test).numpy()
        truth = splits.test.anomaly.numpy()
        found.append(auroc(truth, strange))
        lines.append(f"  {digit}  AUROC {found[-1]:.4f}  AP {average_precision(truth, strange):.4f}")
    return [*lines, f"  mean AUROC {sum(found) / len(found):.4f}"]
