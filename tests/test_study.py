"""Records refuse mistakes in one sentence that holds the value."""

import dataclasses
import json

import pytest

from raeflow import Calibration, Cluster, Data, RaeflowError, Search, Study, Training
from raeflow.study import to_json, variant_names

DATA = Data("rows.parquet")


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Data(""), "source=''"),
        (lambda: Data([]), "source="),
        (lambda: Data("x", columns=["a", "a"]), "named twice"),
        (lambda: Data("x", shape=(28, 28, 1, 1)), "shape=(28, 28, 1, 1)"),
        (lambda: Data("x", shape=(0,)), "shape=(0,)"),
        (lambda: Data("x", fractions=(0.5, 0.5, 0.5, 0.5)), "add up to 1"),
        (lambda: Data("x", scaling="minmax"), "scaling='minmax'"),
        (lambda: Data("x", layout="WHC"), "layout='WHC'"),
        (lambda: Data("x", memory=0), "memory=0"),
        (lambda: Training(epochs=0), "epochs=0"),
        (lambda: Training(batch_size=-1), "batch_size=-1"),
        (lambda: Training(precision="fp8"), "precision='fp8'"),
        (lambda: Search(trials=0), "trials=0"),
        (lambda: Search(selection="test"), "selection='test'"),
        (lambda: Search(gpus=-1), "gpus=-1"),
        (lambda: Calibration(method="max"), "method='max'"),
        (lambda: Calibration(quantile=1.0), "quantile=1.0"),
        (lambda: Cluster(workers=-1), "workers=-1"),
        (lambda: Study(name="a b", data=DATA), "name='a b'"),
        (lambda: Study(name="a", data="rows.parquet"), "must be a raeflow.Data"),
        (lambda: Study(name="a", data=DATA, variants=("autoencoder", "nope")), "'nope'"),
        (lambda: Study(name="a", data=DATA, variants=()), "at least one variant"),
        (lambda: Study(name="a", data=DATA, committee=99), "committee=99"),
        (lambda: Study(name="a", data=DATA, search=Search(selection="validation_loss")), "not comparable"),
        (lambda: Study(name="a", data=DATA, search=Search(selection="labels")), "Data(label=...)"),
    ],
)
def test_a_mistake_is_refused_in_one_sentence(build, said):
    with pytest.raises(RaeflowError) as refusal:
        build()
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_records_are_frozen_and_their_lists_become_tuples():
    data = Data("x", columns=["a", "b"], normal=[("label", "!=", 3)])
    assert data.columns == ("a", "b")
    assert data.normal == (("label", "!=", 3),)
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.label = "y"  # type: ignore[misc]


def test_a_study_turns_into_json():
    study = Study(name="a", data=DATA, hyper={"autoencoder": {"latent": 3}})
    told = json.loads(json.dumps(to_json(study)))
    assert told["data"]["source"] == ["rows.parquet"]
    assert told["hyper"] == {"autoencoder": {"latent": 3}}
    assert told["search"]["trials"] == Search().trials


def test_but_changes_a_copy():
    study = Study(name="a", data=DATA)
    assert study.but(seed=3).seed == 3
    assert study.seed == 0


def test_the_main_variants_are_found():
    assert {"autoencoder", "vae", "wgan_gp"} <= set(variant_names())
