"""Pictures that studies make: what is drawn, not just that something is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from scipy.stats import norm

from raeflow import Data, Study, Training, pipeline
from raeflow.data.scaling import Scaling, fit_scaling
from raeflow.errors import RaeflowError
from raeflow.report import curves, latentplots, rowplots
from raeflow.report.codec import Codec
from raeflow.scoring import Summary
from raeflow.variants import vae
from raeflow.variants._contract import Variant

DICE = np.random.default_rng(0)


@pytest.mark.parametrize("length", [64, 65])
def test_a_cosine_has_its_amplitude_at_its_frequency_and_nothing_elsewhere(length: int) -> None:
    time = np.arange(length) / 100.0
    tone = 3.0 * np.cos(2 * np.pi * 5 * 100 / length * time + 0.4)
    frequency, height = curves.amplitudes(np.stack([tone, tone])[:, None], rate=100.0)
    assert frequency.shape == height.shape == (length // 2 + 1,)
    assert frequency[5] == pytest.approx(500 / length)
    assert height[5] == pytest.approx(3.0)
    assert np.delete(height, 5).max() < 1e-9
    constant = curves.amplitudes(np.full((2, length), 7.0))[1]
    assert constant[0] == pytest.approx(7.0)
    # The highest frequency of an even length has no twin.
    if length % 2 == 0:
        assert curves.amplitudes(np.tile([1.0, -1.0], length // 2)[None])[1][-1] == pytest.approx(1.0)


def test_the_spectrum_is_the_mean_over_signals_and_channels() -> None:
    signals = DICE.normal(size=(4, 2, 32))
    each = [curves.amplitudes(one[None])[1] for one in signals.reshape(8, 32)]
    np.testing.assert_allclose(curves.amplitudes(signals)[1], np.mean(each, 0))


def test_spectra_draw_every_named_set_over_the_frequencies() -> None:
    true = np.cos(2 * np.pi * 4 * np.arange(50) / 50)[None].repeat(3, 0)
    noisy = true + DICE.normal(size=true.shape)
    (axes,) = curves.spectra({"true": true, "noisy": noisy}, rate=50.0, unit="MHz", log=False).axes
    assert [line.get_label() for line in axes.lines] == ["true", "noisy"]
    assert axes.get_xlabel() == "frequency (MHz)"
    for line, values in zip(axes.lines, (true, noisy), strict=True):
        frequency, height = curves.amplitudes(values, 50.0)
        np.testing.assert_allclose(line.get_xdata(), frequency[1:])
        np.testing.assert_allclose(line.get_ydata(), height[1:])
    assert axes.get_xlim() == (0, 25)
    assert axes.get_yscale() == "linear"
    assert curves.spectra({"noisy": noisy, "true": 1000 * noisy}).axes[0].get_yscale() == "log"


def test_spectra_of_other_shapes_are_refused() -> None:
    for signals, said in [
        ({}, "no signal"),
        ({"a": np.zeros(9)}, r"got \(9,\)"),
        ({"a": np.zeros((0, 9))}, r"got \(0, 9\)"),
        ({"a": np.zeros((2, 9)), "b": np.zeros((2, 8))}, r"one length, got a \(2, 9\), b \(2, 8\)"),
    ]:
        with pytest.raises(RaeflowError, match=said):
            curves.spectra(signals)


def test_curves_are_drawn_from_left_to_right_with_levels() -> None:
    figure = curves.curves([3, 1, 2], {"ours": [0.9, 0.5, np.nan], "peer": [0.8, 0.4, 0.6]}, ("SNR", "accuracy"), {"published": 0.69})
    (axes,) = figure.axes
    ours, peer, level = axes.lines
    np.testing.assert_array_equal(ours.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(peer.get_ydata(), [0.4, 0.6, 0.8])
    np.testing.assert_array_equal(ours.get_ydata(), [0.5, np.nan, 0.9])
    assert list(level.get_ydata()) == [0.69, 0.69]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["ours", "peer", "published"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("SNR", "accuracy")


def test_curves_of_other_shapes_are_refused() -> None:
    with pytest.raises(RaeflowError, match=r"'ours' has shape \(2,\), the points have \(3,\)"):
        curves.curves([1, 2, 3], {"ours": [1, 2]}, ("x", "y"))
    with pytest.raises(RaeflowError, match="got 0 over"):
        curves.curves([1, 2, 3], {}, ("x", "y"))


def squares(codes: np.ndarray) -> np.ndarray:
    """A decoder (n, Z) -> (n, 1, 4, 4) whose pixels are the code's first number: what is drawn tells the code."""
    return np.broadcast_to(codes[:, :1, None, None], (len(codes), 1, 4, 4)).astype(np.float32)


class Recorder:
    """`squares`, and the codes that it was asked to decode."""

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        self.codes = codes
        return squares(codes)


def drawn(figure) -> np.ndarray:
    """The one picture of a figure, (H, W, 4)."""
    (axes,) = figure.axes
    (image,) = axes.images
    return np.asarray(image.get_array())


def labels(axes) -> tuple[list[str], list[str]]:
    return [t.get_text() for t in axes.get_xticklabels()], [t.get_text() for t in axes.get_yticklabels()]


def test_lines_of_images_stand_under_one_another_on_one_scale() -> None:
    clean = np.zeros((3, 1, 28, 28), np.float32)
    clean[1, :, 5:9, 3] = 1.0
    noisy = clean / 2
    figure = latentplots.reconstructions({"clean": clean, "noisy": noisy}, ["a", "b", "c"])
    sheet = drawn(figure)
    gap = 2
    assert sheet.shape == (2 * 28 + gap, 3 * 28 + 2 * gap, 4)
    np.testing.assert_array_equal(sheet[:28, 30:58, 0], clean[1, 0])
    np.testing.assert_array_equal(sheet[30:, 30:58, 2], noisy[1, 0])
    assert not sheet[28:30].any()
    assert labels(figure.axes[0]) == (["a", "b", "c"], ["clean", "noisy"])


def test_colour_images_keep_their_colours() -> None:
    rows = DICE.random((2, 3, 6, 5)).astype(np.float32)
    np.testing.assert_allclose(drawn(latentplots.reconstructions({"rows": rows}))[:, 6:, :3], rows[1].transpose(1, 2, 0))


def test_lines_of_other_shapes_are_refused() -> None:
    one = np.zeros((2, 1, 4, 4))
    for lines, titles, said in [
        ({}, [], "got nothing"),
        ({"a": one, "b": one[:1]}, [], r"got a \(2, 1, 4, 4\), b \(1, 1, 4, 4\)"),
        ({"a": np.zeros((2, 16))}, [], r"got a \(2, 16\)"),
        ({"a": one}, ["x"], "1 titles for 2 columns"),
    ]:
        with pytest.raises(RaeflowError, match=said):
            latentplots.reconstructions(lines, titles)


def test_a_straight_path_has_even_steps() -> None:
    a, b = DICE.normal(size=(2, 20))
    path = latentplots.path_codes(a, b, 10)
    assert path.shape == (10, 20)
    np.testing.assert_allclose(path[[0, -1]], [a, b])
    np.testing.assert_allclose(np.diff(path, axis=0), np.tile((b - a) / 9, (9, 1)))


def test_an_arc_keeps_the_length_and_turns_evenly() -> None:
    a, b = DICE.normal(size=(2, 20))
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    path = latentplots.path_codes(a, b, 7, spherical=True)
    np.testing.assert_allclose(path[[0, -1]], [a, b])
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), np.linalg.norm(a))
    turns = np.sum(path[1:] * path[:-1], 1)
    np.testing.assert_allclose(turns, turns[0])
    np.testing.assert_allclose(latentplots.path_codes(a, 2 * a, 3, spherical=True)[1], 1.5 * a)
    with pytest.raises(RaeflowError, match="to its opposite"):
        latentplots.path_codes(a, -a, spherical=True)


@pytest.mark.parametrize("spherical", [False, True])
def test_what_is_decoded_is_the_path_and_what_is_drawn_is_decoded(spherical: bool) -> None:
    ends = DICE.random((2, 3, 5))
    decode, rows = Recorder(), (np.full((3, 1, 4, 4), 0.25), np.full((3, 1, 4, 4), 0.75))
    figure = latentplots.latent_path(decode, *ends, steps=6, spherical=spherical, rows=rows)
    paths = np.concatenate([latentplots.path_codes(a, b, 6, spherical=spherical) for a, b in zip(*ends, strict=True)])
    np.testing.assert_allclose(decode.codes, paths, rtol=1e-6)
    cells = drawn(figure)[1::5, :, 0]  # a line of pixels from each of the three ways
    middles = np.round(figure.axes[0].get_xticks()).astype(int)
    np.testing.assert_allclose(cells[:, middles[1:-1]], paths[:, 0].reshape(3, 6), rtol=1e-6)
    assert (cells[:, middles[0]] == 0.25).all()
    assert (cells[:, middles[-1]] == 0.75).all()
    assert labels(figure.axes[0])[0] == ["from", "1", "2", "3", "4", "5", "6", "to"]


def test_the_plane_is_laid_out_by_the_quantiles_of_the_prior() -> None:
    decode = Recorder()
    figure = latentplots.latent_plane(decode, side=5, tail=0.1, latent=3, across=(2, 0))
    codes = decode.codes.reshape(5, 5, 3)
    assert not codes[..., 1].any()
    np.testing.assert_allclose(norm.cdf(codes[0, :, 2]), [0.1, 0.3, 0.5, 0.7, 0.9], rtol=1e-5)
    np.testing.assert_allclose(norm.cdf(codes[:, 0, 0]), [0.9, 0.7, 0.5, 0.3, 0.1], rtol=1e-5)  # upwards
    axes = figure.axes[0]
    assert drawn(figure).shape == (20, 20, 4)
    assert drawn(figure)[0, 0, 0] > drawn(figure)[-1, 0, 0]
    across, up = labels(axes)
    assert across == ["−1.3", "−0.5", "0.0", "0.5", "1.3"]
    assert up == across[::-1]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("code 3", "code 1")


def test_the_corners_are_the_four_codes_and_the_middle_is_their_mean() -> None:
    corners, decode = DICE.random((4, 6)), Recorder()
    figure = latentplots.latent_corners(decode, corners, side=3, names=["a", "b", "c", "d"])
    codes = decode.codes.reshape(3, 3, 6)
    np.testing.assert_allclose([codes[0, 0], codes[0, 2], codes[2, 0], codes[2, 2]], corners, rtol=1e-6)
    np.testing.assert_allclose(codes[1, 1], corners.mean(0), rtol=1e-6)
    np.testing.assert_allclose(codes[0, 1], corners[:2].mean(0), rtol=1e-6)
    places = {t.get_text(): t.xy for t in figure.axes[0].texts}
    assert places["a"] < places["b"]
    assert places["b"][1] < places["d"][1]
    assert drawn(figure).shape == (12, 12, 4)


def test_the_rows_of_the_corners_stand_outside_of_them() -> None:
    rows = np.arange(4)[:, None, None, None] / 4 + np.zeros((4, 1, 4, 4))
    sheet = drawn(latentplots.latent_corners(squares, DICE.random((4, 6)), side=3, rows=rows))
    assert sheet.shape == (12, 4 + 2 + 12 + 2 + 4, 4)
    for number, (y, x) in enumerate([(0, 0), (0, -1), (-1, 0), (-1, -1)]):
        assert (sheet[y, x] == [number / 4] * 3 + [1]).all()
    assert not sheet[4:8, :6].any()
    assert sheet[4:8, 6:18, 3].all()


def test_codes_and_decoders_of_other_shapes_are_refused() -> None:
    for call, said in [
        (lambda: latentplots.latent_path(squares, np.zeros(3), np.zeros(4)), r"got \(3,\) and \(4,\)"),
        (lambda: latentplots.latent_path(squares, np.zeros(3), np.zeros(3), 1), "1 steps"),
        (
            lambda: latentplots.latent_path(squares, np.zeros(3), np.zeros(3), rows=(np.zeros((1, 1, 4, 4)), np.zeros((2, 1, 4, 4)))),
            "rows of",
        ),
        (lambda: latentplots.latent_path(lambda codes: codes, np.zeros(3), np.zeros(3)), r"images \(10, C, H, W\).*it gave \(10, 3\)"),
        (lambda: latentplots.latent_plane(squares, side=1), "side=1"),
        (lambda: latentplots.latent_plane(squares, latent=1), r"across=\(0, 1\)"),
        (lambda: latentplots.latent_corners(squares, np.zeros((3, 2))), r"got \(3, 2\)"),
        (lambda: latentplots.latent_corners(squares, np.zeros((4, 2)), names=["a"]), "1 names"),
        (lambda: latentplots.latent_corners(squares, np.zeros((4, 2)), rows=np.zeros((3, 1, 4, 4))), r"shape \(3, 1, 4, 4\)"),
        (lambda: latentplots.latent_map(np.zeros((9, 1))), r"got \(9, 1\)"),
        (lambda: latentplots.latent_map(np.zeros((9, 2)), np.zeros(8)), r"\(8,\) for 9 codes"),
        (lambda: latentplots.latent_map(np.ones((9, 2))), "all the same"),
        (lambda: rowplots.latent_scatter(np.zeros((9, 2)), np.arange(9), ["a"]), "1 names for groups"),
    ]:
        with pytest.raises(RaeflowError, match=said) as refusal:
            call()
        assert "\n" not in str(refusal.value)


def test_the_map_keeps_groups_apart_and_draws_no_more_than_it_may() -> None:
    groups = np.arange(400) % 3
    codes = DICE.normal(size=(400, 8)) + 30 * np.eye(8)[groups]
    figure = latentplots.latent_map(codes, groups, ["shoe", "bag", "coat"], most=90)
    (axes,) = figure.axes
    clouds = {c.get_label(): np.asarray(c.get_offsets()) for c in axes.collections}
    assert list(clouds) == ["shoe", "bag", "coat"]
    assert sum(map(len, clouds.values())) == 90
    middles = np.stack([cloud.mean(0) for cloud in clouds.values()])
    for own, cloud in enumerate(clouds.values()):
        assert (np.linalg.norm(cloud[:, None] - middles, axis=2).argmin(1) == own).all()
    assert [t.get_text() for t in axes.texts] == ["shoe", "bag", "coat"]
    assert axes.get_aspect() == 1
    plane, kept = latentplots.tsne(codes, most=90)
    assert (plane.shape, len(np.unique(kept))) == ((90, 2), 90)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> pipeline.Outcome:
    """A study of scikit-learn's digits, over after two epochs, without a search."""
    home = tmp_path_factory.mktemp("pictures")
    study = Study(
        name="tiny", data=Data("digits"), variants=("vae",), heads="error", training=Training(epochs=2, batch_size=64), home=str(home),
    )  # fmt: skip
    session = pipeline.Session(study, say=lambda _line: None)
    detector = session.calibrate(session.train())
    session.tracker.finish("FINISHED")
    summary = Summary(out=str(home), rows=0, alerts=0, fragments=0, skipped=0, seconds=0.0)
    return pipeline.Outcome(session.study, [], detector, {}, {}, {}, summary, home, "", "", session.splits, session.tracker)


def test_a_picture_of_a_study_lies_in_its_folder_and_in_mlflow(tiny: pipeline.Outcome) -> None:
    codec = Codec.of(tiny.detector)
    rows = tiny.splits.validate.x[:5]
    figure = latentplots.reconstructions({"row": codec.scaled(rows), "rebuilt": codec.rebuild(rows)})
    place = tiny.picture("reconstructions", figure)
    assert place == tiny.study.folder / "pictures" / "reconstructions.png"
    client = MlflowClient(f"sqlite:///{tiny.study.folder.parent / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    run = tiny.tracker.parent_run_id
    assert run in [found.info.run_id for found in client.search_runs([experiment.experiment_id])]
    assert "reconstructions.png" in [artifact.path for artifact in client.list_artifacts(run)]
    kept = Path(client.download_artifacts(run, "reconstructions.png"))
    assert kept.read_bytes() == place.read_bytes()
    assert np.asarray(Image.open(kept)).std() > 10


def test_a_codec_is_the_detectors_own_model(tiny: pipeline.Outcome) -> None:
    codec, rows = Codec.of(tiny.detector), tiny.splits.validate.x[:300]
    assert len(rows) > 100
    scaled = codec.scaled(rows)
    np.testing.assert_array_equal(scaled, tiny.splits.encoding(rows).numpy())
    np.testing.assert_allclose(codec.natural(scaled), rows.numpy(), atol=1e-6)
    codes = codec.encode(rows)
    assert codes.shape == (len(rows), tiny.detector.members[0].hyper["latent"])
    np.testing.assert_array_equal(codec.encode(scaled, scaled=True), codes)
    np.testing.assert_allclose(codec.decode(codes), codec.rebuild(rows), rtol=1e-5, atol=1e-6)
    errors = ((scaled - codec.rebuild(scaled, scaled=True)) ** 2).reshape(len(rows), -1).mean(1)
    np.testing.assert_allclose(errors, tiny.detector.score(rows), rtol=1e-4)


def test_rows_that_were_each_scaled_by_themselves_have_no_units() -> None:
    codec = Codec(vae.Model((2, 9), vae.Hyper()), Scaling("signal", (2, 9)))
    with pytest.raises(RaeflowError, match="own mean and std"):
        codec.natural(np.zeros((3, 2, 9), np.float32))
    double = Codec(vae.Model((4,), vae.Hyper(latent=2)), fit_scaling("unit", (4,), torch.float32, [torch.tensor([[2.0] * 4, [6.0] * 4])]))
    np.testing.assert_allclose(double.natural(np.full((3, 4), 0.5, np.float32)), 4.0)


def test_a_model_without_a_code_is_refused(tiny: pipeline.Outcome) -> None:
    class Plain(Variant):
        def optimizers(self):
            return {}

        def turns(self, batch, progress):
            yield from ()

        def reconstruct(self, x):
            return x

        def score(self, x):
            return x.flatten(1).sum(1)

    with pytest.raises(RaeflowError, match="has no code to draw"):
        Codec(Plain(), tiny.splits.encoding)
