"""Search: one space over variants, a database that remembers, ASHA among like and like, and a kill in the middle."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from raeflow import heads, space, variants
from raeflow.cluster import estimate
from raeflow.cluster.record import Record
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.selection import Synthetic, Trial
from raeflow.study import Cluster, Data, Search, Study, Training

SHAPE = (12,)
BOTH = ("autoencoder", "vae")


def splits(rows: int = 512, seed: int = 0) -> Splits:
    """Correlated rows, scaled; half train, half validate."""
    drawn = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, generator=drawn) @ torch.randn(3, *SHAPE, generator=drawn) + 0.1 * torch.randn(rows, *SHAPE, generator=drawn)
    train, held = x[: rows // 2], x[rows // 2 :]
    spec = RowSpec(tuple(f"x{i}" for i in range(SHAPE[0])), "columns", SHAPE, "float32")
    scaling = fit_scaling("standard", SHAPE, torch.float32, [train])
    return Splits(spec, scaling, Rows(train), Rows(held), Rows(held), Rows(held), fingerprint="sheet")


def study(home: Path, **changes: Any) -> Study:
    base = Study(
        name="small", home=str(home), data=Data("sheet"), variants=BOTH,
        training=Training(epochs=4, batch_size=64), search=Search(trials=6, slots=1),
    )  # fmt: skip
    return base.but(**changes)


def ended(number: int, variant: str, value: float | None, status: Any = "complete", message: str = "") -> Trial:
    return Trial(number, variant, {}, value, 0.5, 4, 1.0, status, message=message)


# The space


def test_parameters_carry_their_variants_name_and_only_its_own_are_asked(tmp_path: Path) -> None:
    found = optuna.create_study()
    for _ in range(8):
        trial = found.ask()
        variant, hyper = space.suggest(study(tmp_path), trial, SHAPE)
        own = {name for name in trial.params if name != "variant"}
        assert trial.params["variant"] == variant
        assert own and all(name.startswith(f"{variant}.") for name in own)
        assert set(hyper) == {f.name for f in dataclasses.fields(variants.get(variant).Hyper)}
        assert all(hyper[name.split(".")[1]] == value for name, value in trial.params.items() if name in own)


def test_one_variant_alone_is_not_a_choice(tmp_path: Path) -> None:
    trial = optuna.create_study().ask()
    space.suggest(study(tmp_path, variants=("vae",)), trial, SHAPE)
    assert "variant" not in trial.params


def test_fixed_hyperparameters_are_held_and_not_asked(tmp_path: Path) -> None:
    fixed = {"latent": 3, "lr": 0.5, "layers": [7, 5]}
    trial = optuna.create_study().ask()
    _, hyper = space.suggest(study(tmp_path, variants=("vae",), hyper={"vae": fixed}), trial, SHAPE)
    assert {name: hyper[name] for name in fixed} == fixed
    assert not {"vae.latent", "vae.lr", "vae.layers"} & set(trial.params)


@pytest.mark.parametrize("shape", [(12,), (1, 96), (1, 16, 16)])
@pytest.mark.parametrize("variant", variants.names())
def test_the_first_point_is_the_sources_own_and_the_nearest_the_space_has(tmp_path: Path, variant: str, shape: tuple[int, ...]) -> None:
    one = study(tmp_path, variants=(variant,))
    ((params, exact),) = space.first_points(one, shape)
    assert variants.hyper(variant, exact) == variants.get(variant).published(shape)
    found = optuna.create_study()
    found.enqueue_trial(params)
    trial = found.ask()
    space.suggest(one, trial, shape)
    assert trial.params == params, "Optuna must know the trial by the point that was queued"


def test_out_of_range_values_go_to_the_nearest_allowed() -> None:
    near = space.Nearest({"a": 99.0, "b": 0, "c": "seven", "d": 7, "e": 0.26})
    assert near.suggest_float("a", 0.0, 1.0) == 1.0
    assert near.suggest_int("b", 2, 64, log=True) == 2
    assert near.suggest_categorical("c", ["one", "two"]) == "one"
    assert near.suggest_int("d", 1, 10, step=4) in (5, 9)
    assert near.suggest_float("e", 0.0, 1.0, step=0.25) == 0.25


# Rungs


def test_rungs_lie_in_the_settled_part_of_training() -> None:
    from raeflow.cluster.trial import rung_epochs

    assert rung_epochs(40, 0.0) == {10: 1, 20: 2}
    gan = rung_epochs(40, 0.75)
    assert sorted(gan.values()) == [1, 2] and all(30 <= epoch < 40 for epoch in gan)
    assert rung_epochs(1, 0.0) == {}
    assert all(epoch < 3 for epoch in rung_epochs(3, 0.5))


# The record


def test_the_record_goes_on_from_its_database(tmp_path: Path) -> None:
    one = study(tmp_path)
    first = Record(one, splits())
    number, variant, hyper = first.ask()
    first.report(number, {"epoch": 1, "value": 0.6, "rung": 1})
    first.end(ended(number, variant, 0.9))
    open_number, open_variant, open_hyper = first.ask()
    first.report(open_number, {"epoch": 1, "value": 0.4, "rung": 1})

    again = Record(one, splits())  # the process died with a trial running
    assert [(t.number, t.status, t.value, t.hyper) for t in again.trials()] == [(number, "complete", 0.9, hyper)]
    assert again.medians(variant) == {1: 0.6}, "a trial that runs is nobody's measure"
    assert again.ask() == (open_number, open_variant, open_hyper), "what was interrupted goes on under its number"
    again.report(open_number, {"epoch": 1, "value": 0.4, "rung": 1})  # told again, quietly
    again.end(ended(open_number, open_variant, 0.4, "pruned"))
    states = [t.state.name for t in optuna.load_study(study_name="small", storage=again.url).trials]
    assert states == ["COMPLETE", "PRUNED"]


def test_published_values_come_first_one_variant_after_the_other(tmp_path: Path) -> None:
    record = Record(study(tmp_path), splits())
    record.lag = 2
    for name in BOTH:
        _, variant, hyper = record.ask()
        assert variant == name
        assert variants.hyper(name, hyper) == variants.get(name).published(SHAPE)


def test_a_pruned_trial_counts_at_its_last_value_and_a_failed_one_not_at_all(tmp_path: Path) -> None:
    record = Record(study(tmp_path), splits())
    for status in ("pruned", "failed"):
        number, variant, _ = record.ask()
        record.report(number, {"epoch": 2, "value": 0.3})
        record.end(ended(number, variant, None, status, "it burst" if status == "failed" else ""))
    pruned, failed = optuna.load_study(study_name="small", storage=record.url).trials
    assert (pruned.state.name, pruned.value, pruned.intermediate_values) == ("PRUNED", 0.3, {2: 0.3})
    assert (failed.state.name, failed.value, failed.user_attrs["message"]) == ("FAIL", None, "it burst")
    assert [t.message for t in record.trials()] == ["", "it burst"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "seed was 0, now it is 1"),
        ({"training": Training(epochs=5, batch_size=64)}, "training was"),
        ({"hyper": {"vae": {"latent": 2}}}, "hyper was"),
    ],
)
def test_another_study_of_the_same_name_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    Record(study(tmp_path), splits())
    with pytest.raises(RaeflowError, match=said):
        Record(study(tmp_path, **changes), splits())
    Record(study(tmp_path, search=Search(trials=99, slots=2)), splits())  # more of the same is the same study


@pytest.mark.parametrize(("first", "then"), [("auto", "error"), ("error", "auto"), ("error", "memory")])
def test_trials_judged_under_other_heads_are_another_study(tmp_path: Path, first: str, then: str) -> None:
    Record(study(tmp_path, heads=first), splits())
    with pytest.raises(RaeflowError, match="heads was"):
        Record(study(tmp_path, heads=then), splits())


def test_starting_over_forgets(tmp_path: Path) -> None:
    record = Record(study(tmp_path), splits())
    number, variant, _ = record.ask()
    record.end(ended(number, variant, 0.5))
    assert Record(study(tmp_path, seed=3), splits(), resume=False).trials() == []
    assert not (record.folder / "0").exists()


def test_a_database_that_cannot_be_used_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(RaeflowError, match="Search\\(storage=") as told:
        Record(study(tmp_path, search=Search(storage="nosuch://ann:hunter2@db/x")), splits())
    assert "hunter2" not in str(told.value) and "nosuch" in str(told.value)


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan")])
def test_minutes_that_are_none_are_refused(minutes: float) -> None:
    with pytest.raises(RaeflowError, match=r"^Search\(minutes=.*\): minutes must be greater than 0$"):
        Search(minutes=minutes)


def test_best_first() -> None:
    from raeflow.cluster.search import ranked

    trials = [ended(0, "vae", 0.5), ended(1, "vae", 0.9), ended(2, "vae", 0.99, "pruned"), ended(3, "vae", None, "failed")]
    assert [t.number for t in ranked(trials)] == [1, 0, 2, 3]


# The time it may take


def test_the_cost_of_a_trial_grows_with_its_epochs_steps_and_rows() -> None:
    cost = estimate.Cost(step=0.01, row=0.001, judgement=0.5)
    assert cost.trial(steps=20, rows=100, epochs=10) == pytest.approx(10 * (0.2 + 0.1) + 1.5)
    assert cost.trial(20, 100, 20) - 1.5 == pytest.approx(2 * (cost.trial(20, 100, 10) - 1.5))


def test_the_expectation_scales_with_trials_epochs_and_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = [estimate.Cost(0.5, 0.0, 0.0), estimate.Cost(1.5, 0.0, 0.0)]  # seconds a step, of which there are 4
    monkeypatch.setattr(estimate, "timed", lambda *_: costs)

    def said(trials: int, **search: Any) -> str:
        return estimate.expectation(study(tmp_path, search=Search(**{"trials": 6, "slots": 1, **search})), splits(), trials)

    assert said(6) == "expect up to about 2 min: 6 trials of up to 4 epochs, 1 at a time"  # 6 x 4 x 4 x 1 s
    assert said(6, epochs=40) == "expect up to about 16 min: 6 trials of up to 40 epochs, 1 at a time"
    assert said(60, epochs=40) == "expect up to about 2.7 h: 60 trials of up to 40 epochs, 1 at a time"
    assert said(60, epochs=40, slots=2) == "expect up to about 80 min: 60 trials of up to 40 epochs, 2 at a time"
    assert said(1, slots=2) == "expect up to about 16 s: 1 trial of up to 4 epochs, 1 at a time"
    assert said(6, minutes=1).startswith("expect about 1 min and the end of what runs then: all 6 trials of up to 4 epochs")
    assert said(6, minutes=3).startswith("expect up to about 2 min")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert said(6, slots=None).endswith("6 trials of up to 4 epochs, shared by the slots of the cluster")
    monkeypatch.setattr(estimate, "timed", lambda *_: [])
    assert said(6) == ""


def test_timing_counts_by_its_clock_and_leaves_the_dice_alone(tmp_path: Path) -> None:
    ticks = iter(range(10**6))
    before, cores = torch.get_rng_state(), torch.get_num_threads()
    costs = estimate.timed(study(tmp_path, hyper={"vae": {"latent": 2}}), splits(), lambda: next(ticks) * 1e-3)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == cores
    assert len(costs) == len(BOTH)
    for cost in costs:  # a millisecond from one reading to the next
        assert cost.step == pytest.approx(1e-3)
        assert cost.row == pytest.approx(1e-3 / 256)
        assert cost.judgement == pytest.approx(1e-3)
    hopeless = study(tmp_path, variants=("vae",), hyper={"vae": {"latent": -1}})
    assert estimate.timed(hopeless, splits()) == []


def test_a_slow_model_is_timed_by_few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raeflow.training import Run

    taken: list[float] = []
    step = Run.step
    monkeypatch.setattr(Run, "step", lambda run, raw, progress: (taken.append(progress), step(run, raw, progress))[1])
    now = iter(float(n) for n in range(1000))  # a second a reading: the first step is all there is time for
    estimate.timed(study(tmp_path, variants=("vae",)), splits(), lambda: next(now))
    assert taken == [0.0, 1 / 8]
    taken.clear()
    estimate.timed(study(tmp_path, variants=("vae",)), splits(), lambda: 0.0)
    assert taken == [0.0, *estimate.PLACES], "no more steps than an epoch has"


# With Ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    from raeflow.cluster import session

    session.connect()
    return None


@pytest.fixture(scope="module")
def searched(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, list[Trial], list[str], list[Trial]]:
    """A search over two variants, with some hyperparameters held; its study, trials, lines and what was told."""
    from raeflow.cluster.search import search

    one = study(tmp_path_factory.mktemp("runs"), hyper={"vae": {"latent": 2}}, search=Search(trials=10, slots=1))
    lines: list[str] = []
    told: list[Trial] = []
    return one, search(one, splits(), on_trial=told.append, progress=lines.append), lines, told


@pytest.mark.ray
def test_search_tries_published_values_first(searched: Any) -> None:
    _, trials, _, _ = searched
    first = sorted(trials, key=lambda t: t.number)[:2]
    assert [t.variant for t in first] == list(BOTH)
    for trial in first:
        fixed = {"latent": 2} if trial.variant == "vae" else {}
        assert variants.hyper(trial.variant, trial.hyper) == variants.hyper(
            trial.variant, fixed, variants.get(trial.variant).published(SHAPE)
        )


@pytest.mark.ray
def test_search_returns_every_trial_best_first(searched: Any) -> None:
    _, trials, lines, told = searched
    assert sorted(t.number for t in trials) == list(range(10))
    complete = [t for t in trials if t.status == "complete"]
    assert trials[: len(complete)] == complete
    values = [t.value for t in complete]
    assert values == sorted(values, reverse=True) and values[0] > 0.6
    assert sorted(t.number for t in told) == list(range(10))
    assert lines[0].startswith("expect up to about ") and lines[0].endswith(": 10 trials of up to 4 epochs, 1 at a time")
    assert len(lines) == 11 and lines[-1].startswith("trial 10/10 ") and f"best {values[0]:.4f}" in lines[-1]


@pytest.mark.ray
def test_asha_stops_some_trials_early(searched: Any) -> None:
    _, trials, lines, _ = searched
    pruned = [t for t in trials if t.status == "pruned"]
    assert pruned, "ten trials without one that is worse than the median of its variant"
    assert all(t.epochs < 4 and t.value is not None and t.folder is None for t in pruned)
    assert sum("stopped at epoch" in line for line in lines) == len(pruned)
    assert all(t.epochs == 4 for t in trials if t.status == "complete")


@pytest.mark.ray
def test_weights_come_back_and_are_the_ones_that_were_judged(searched: Any) -> None:
    from raeflow.stored import load_fitted

    one, trials, _, _ = searched
    best = trials[0]
    fitted = load_fitted(best.folder)
    held = splits()
    asked = Synthetic(held.for_search(), one.seed)
    again = asked.value(heads.scored(fitted.model(), fitted.scorer(), asked.x))
    assert best.head == fitted.head and max(best.heads.values()) == best.value
    assert again == pytest.approx(best.value, abs=1e-6)
    assert Path(best.folder) == (one.folder / "trials" / str(best.number)).absolute()
    assert [e["epoch"] for e in best.history] == [1, 2, 3, 4]
    assert best.history[fitted.best_epoch - 1]["validation_loss"] == best.validation_loss


@pytest.mark.ray
def test_optuna_reads_the_search(searched: Any) -> None:
    one, trials, _, _ = searched
    loaded = optuna.load_study(study_name=one.name, storage=f"sqlite:///{one.folder}/optuna.db")
    states = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    by_number = {t.number: t for t in trials}
    assert loaded.best_value == trials[0].value
    for frozen in loaded.trials:
        trial = by_number[frozen.number]
        assert frozen.state.name == states[trial.status]
        assert frozen.value == trial.value
        assert frozen.params["variant"] == trial.variant
        assert "vae.latent" not in frozen.params and (trial.variant != "vae" or trial.hyper["latent"] == 2)
        assert frozen.intermediate_values


@pytest.mark.ray
def test_a_search_that_is_done_is_not_repeated(searched: Any) -> None:
    from raeflow.cluster.search import search

    one, trials, _, _ = searched
    told: list[Trial] = []
    assert search(one, splits(), on_trial=told.append) == trials
    assert told == []


@pytest.mark.ray
def test_a_search_ends_when_its_minutes_are_over_and_goes_on_when_asked_again(cluster: None, tmp_path: Path) -> None:
    from raeflow.cluster.search import search

    short = study(tmp_path, search=Search(trials=4, slots=1, minutes=1e-6, stop_early=False))
    lines: list[str] = []
    first = search(short, splits(), progress=lines.append)
    assert [(t.number, t.status, t.epochs) for t in first] == [(0, "complete", 4)], "what runs when the time is up goes on to its end"
    assert lines[0].startswith("expect about 1 s and the end of what runs then: all 4 trials")
    assert lines[-1] == "1e-06 min are over: 1 of 4 trials have ended; search again to go on"
    second = search(short, splits())
    assert sorted(t.number for t in second) == [0, 1] and first[0] in second
    database = optuna.load_study(study_name="small", storage=f"sqlite:///{tmp_path}/small/optuna.db")
    assert [t.state.name for t in database.trials] == ["COMPLETE"] * 2, "no trial was begun and left"
    rest = search(study(tmp_path, search=Search(trials=4, slots=1, minutes=60, stop_early=False)), splits(), progress=lines.append)
    assert sorted(t.number for t in rest) == [0, 1, 2, 3]
    assert lines[-1].startswith("trial 4/4")


@pytest.mark.ray
def test_two_trials_at_a_time_and_failing_ones_go_on_record(cluster: None, tmp_path: Path) -> None:
    from raeflow.cluster.search import search

    hopeless = study(tmp_path, hyper={"vae": {"lr": 1e30}}, search=Search(trials=5, slots=2))
    trials = search(hopeless, splits())
    assert {t.status for t in trials if t.variant == "vae"} == {"failed"}
    assert {t.status for t in trials if t.variant == "autoencoder"} <= {"complete", "pruned"}
    failed = trials[-1]
    assert failed.value is None and "diverged" in failed.message
    assert trials[0].variant == "autoencoder"


@pytest.mark.ray
def test_a_search_in_which_all_fails_says_why(cluster: None, tmp_path: Path) -> None:
    from raeflow.cluster.search import search

    with pytest.raises(RaeflowError, match=r"all 2 trials failed, .* diverged"):
        search(study(tmp_path, variants=("vae",), hyper={"vae": {"lr": 1e30}}, search=Search(trials=2, slots=1)), splits())


@pytest.mark.ray
def test_what_never_fits_the_machine_is_refused(cluster: None, tmp_path: Path) -> None:
    from raeflow.cluster.search import search

    with pytest.raises(RaeflowError, match=r"Search\(cpus=4096"):
        search(study(tmp_path, search=Search(trials=2, cpus=4096)), splits())


@pytest.mark.ray
def test_a_killed_search_goes_on(cluster: None, tmp_path: Path) -> None:
    from raeflow.cluster.search import search

    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from raeflow.cluster.search import search
        from raeflow.study import Search
        from test_search import splits, study
        search(study(Path({str(tmp_path)!r}), search=Search(trials=500, slots=1)), splits(), progress=lambda line: print(line, flush=True))
        """)
    )
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as child:
        assert child.stdout is not None
        seen = []
        for line in child.stdout:
            seen.append(line)
            if line.startswith("trial 3/"):
                break
        child.send_signal(signal.SIGKILL)
        child.stdout.read()
    assert seen and seen[-1].startswith("trial 3/"), "".join(seen)

    url = f"sqlite:///{tmp_path}/small/optuna.db"
    before = {t.number: t for t in optuna.load_study(study_name="small", storage=url).trials if t.state.is_finished()}
    assert len(before) >= 3
    goal = len(before) + 3
    told: list[Trial] = []
    trials = search(study(tmp_path, search=Search(trials=goal, slots=1)), splits(), on_trial=told.append)
    after = {t.number: t for t in optuna.load_study(study_name="small", storage=url).trials}
    assert sorted(t.number for t in trials) == list(range(goal)) == sorted(after)
    assert sorted(t.number for t in told) == sorted(set(after) - set(before)), "nothing that ended is done again"
    assert all(after[n].datetime_complete == t.datetime_complete and after[n].params == t.params for n, t in before.items())
    assert all((Path(t.folder) / "weights.safetensors").exists() for t in trials if t.folder)


@pytest.mark.ray
def test_a_dead_process_and_a_bug_fail_one_trial_each(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first trial's process dies, the second raises what no configuration should; the search goes on."""
    import ray
    from ray import tune

    from raeflow.cluster import search as room

    class Unlucky(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.number = config["number"]

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.number = new_config["number"]
            return True

        def step(self) -> dict[str, Any]:
            if self.number == 0:
                os._exit(1)
            if self.number == 1:
                raise KeyError("no such thing")
            history = [{"epoch": 1, "validation_loss": 0.5, "value": 0.8}]
            return {"epoch": 1, "value": 0.8, "seconds": 0.1, "history": history, "last": True, "done": True}

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(room, "_trainable", lambda study, splits: (Unlucky, {"cpu": 1}))
    one = study(tmp_path, search=Search(trials=3, slots=1), cluster=Cluster(max_failures=0))
    try:
        trials = {t.number: t for t in room.search(one, splits())}
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert [trials[n].status for n in range(3)] == ["failed", "failed", "complete"]
    assert trials[0].message.startswith("its process died")
    assert trials[1].message == "KeyError: 'no such thing'"


@pytest.mark.ray
def test_weights_travel_to_the_node_of_the_driver(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raeflow.cluster import shared
    from raeflow.stored import load_fitted
    from raeflow.training import fit

    hyper = space.published(study(tmp_path), "vae", SHAPE)
    fitted = fit("vae", hyper, splits(), Training(epochs=1, batch_size=64, device="cpu"), 0)
    home = shared.node()
    monkeypatch.setattr(shared, "node", lambda: "another node")
    shared.deliver(fitted, tmp_path / "trials" / "0", home)
    back = load_fitted(tmp_path / "trials" / "0")
    assert all(torch.equal(back.weights[k], fitted.weights[k]) for k in fitted.weights)


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_may_take_two_workers(cluster: None, tmp_path: Path) -> None:
    from raeflow.cluster.search import search

    one = study(tmp_path, variants=("autoencoder",), search=Search(trials=2, workers=2))
    spread = search(one, splits())
    assert {t.status for t in spread} <= {"complete", "pruned"}
    alone = search(one.but(name="alone", search=Search(trials=1)), splits())
    first = next(t for t in spread if t.number == 0)
    assert first.value == pytest.approx(alone[0].value, abs=1e-3), "two workers give the model of one"
