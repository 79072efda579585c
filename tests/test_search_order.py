"""A search gives the same trials whichever of them is faster."""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from ray.tune.schedulers import TrialScheduler

from raeflow.cluster.record import Record
from raeflow.cluster.search import Halving, Log, OptunaSearcher, lag, search
from raeflow.cluster.trial import InProcess
from raeflow.selection import Trial
from raeflow.study import Cluster, Search
from tests.test_search import splits, study

TRIALS = 16
EPOCHS = 8
RUNGS = {2: 1, 4: 2}


def outcome(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """All reports of a trial, which its number and hyperparameters decide: a good, a weak, a failed or a dying one."""
    dice = random.Random(f"{asked['number']} {asked['variant']} {asked['hyper']['latent']} {asked['hyper']['lr']:.12g}")
    level, reports = dice.random(), []
    fails = dice.choice([None, None, None, 3, 5])
    for epoch in range(1, EPOCHS + 1):
        report: dict[str, Any] = {"epoch": epoch, "seconds": 1.0, "last": epoch in (EPOCHS, fails)}
        report["history"] = [{"epoch": epoch, "validation_loss": 1 - level}]
        if epoch == fails:
            report["message"] = "it burst"
        elif epoch in RUNGS or epoch == EPOCHS:
            report["value"] = level + 0.1 * dice.random()
        if epoch in RUNGS and epoch != fails:
            report["rung"] = RUNGS[epoch]
        reports.append(report)
    return reports


@dataclass
class Machine:
    """Tune's calls of searcher and scheduler, with reports that arrive in an order that dice decide."""

    log: Log
    slots: int
    dice: random.Random
    asked: list[dict[str, Any]] = field(default_factory=list)
    seen: list[list[str]] = field(default_factory=list)
    """The states of all trials that the sampler saw when each was asked for."""
    arrived: list[int] = field(default_factory=list)
    """Numbers, in the order in which trials ended."""
    idle: int = 0

    def run(self, trials: int, reports: int | None = None) -> None:
        """Run so many trials, or until so many reports have arrived."""
        searcher, scheduler = OptunaSearcher(self.log), Halving(self.log, self.slots)
        running: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
        while (len(self.asked) < trials or running) and reports != 0:
            while len(running) < self.slots and len(self.asked) < trials:
                asked = searcher.suggest(f"t{len(self.asked)}")
                if asked is None:
                    self.idle += 1
                    break
                assert isinstance(asked, dict)
                running[f"t{len(self.asked)}"] = asked, outcome(asked)
                self.asked.append(asked)
                self.seen.append([t.state.name for t in self.log.record._trials()][: asked["number"]])
            name = self.dice.choice(list(running))
            asked, left = running[name]
            report = left.pop(0)
            verdict = scheduler.on_trial_result(None, SimpleNamespace(trial_id=name), report)  # type: ignore[arg-type]
            if report["last"] or verdict == TrialScheduler.STOP:
                searcher.on_trial_complete(name, report)
                self.arrived.append(running.pop(name)[0]["number"])
            else:
                searcher.on_trial_result(name, report)
            reports = None if reports is None else reports - 1
        if reports != 0:
            self.log.record.tell()


def machine(home: Path, seed: int, slots: int, lines: list[str] | None = None, storage: str | None = "sqlite://") -> Machine:
    """A machine of the study in this folder, whose trials take their time by this seed."""
    # A database in memory where nothing is to outlive it: commits to a disk would be most of the time.
    one = study(home, search=Search(trials=TRIALS, slots=slots, storage=storage))
    record = Record(one, splits(64))
    record.lag = lag(slots)
    log = Log(one, record, None, None if lines is None else lines.append)
    return Machine(log, slots, random.Random(seed))


def table(trials: list[Trial]) -> list[Any]:
    """What must be equal of trials: all but seconds and where they lie."""
    assert len({t.number for t in trials}) == len(trials)
    rows = sorted(trials, key=lambda t: t.number)
    return [(t.number, t.variant, t.hyper, t.value, t.validation_loss, t.epochs, t.status, t.message, list(t.history)) for t in rows]


@pytest.mark.parametrize("slots", [2, 4])
def test_whatever_ends_first_the_same_is_asked_told_and_stopped(tmp_path: Path, slots: int) -> None:
    runs, told = [], []
    for seed in range(3):
        lines: list[str] = []
        run = machine(tmp_path / str(seed), seed, slots, lines)
        run.run(TRIALS)
        frozen = run.log.record.optuna.trials
        told.append([(t.number, t.state, t.value, t.params, t.intermediate_values, t.user_attrs) for t in frozen])
        runs.append((run, table(run.log.trials), lines))
    first, trials, lines = runs[0]
    for (run, same, said), database in zip(runs[1:], told[1:], strict=True):
        assert run.asked == first.asked
        assert run.seen == first.seen
        assert same == trials
        assert said == lines, "what is printed comes in the order of numbers"
        assert database == told[0]
    assert {t[6] for t in trials} == {"complete", "pruned", "failed"}, "verdicts of all kinds were compared"
    assert len({tuple(run.arrived) for run, _, _ in runs}) == len(runs), "the orders of arrival differed"
    assert all(run.arrived != sorted(run.arrived) for run, _, _ in runs)
    for number, states in enumerate(first.seen):
        split = max(0, number - lag(slots) + 1)
        assert "RUNNING" not in states[:split] and set(states[split:]) <= {"RUNNING"}


def test_one_slot_knows_all_that_came_before(tmp_path: Path) -> None:
    run = machine(tmp_path, 0, 1)
    run.run(6)
    assert run.idle == 0 and all("RUNNING" not in states for states in run.seen)


def test_a_trial_is_compared_with_the_median_of_those_it_was_chosen_by(tmp_path: Path) -> None:
    one = study(tmp_path, variants=("vae",), search=Search(trials=9, slots=2, storage="sqlite://"))
    record = Record(one, splits(64))
    record.lag = lag(2)
    log = Log(one, record, None, None)
    searcher, scheduler = OptunaSearcher(log), Halving(log, 2)

    def rung(name: str, value: float) -> str:
        return scheduler.on_trial_result(None, SimpleNamespace(trial_id=name), {"epoch": 2, "rung": 1, "value": value, "seconds": 1.0})  # type: ignore[arg-type]

    def end(name: str, value: float) -> None:
        searcher.on_trial_result(name, {"epoch": 2, "rung": 1, "value": value, "seconds": 1.0})
        searcher.on_trial_complete(
            name, {"epoch": 4, "last": True, "value": value, "seconds": 1.0, "history": [{"epoch": 4, "validation_loss": 1.0}]}
        )

    assert [searcher.suggest(n) is not None for n in "abcd"] == [True, True, True, False]
    end("b", 0.9)
    end("c", 0.9)
    assert searcher.suggest("d") is None, "number 3 waits for number 0"
    assert rung("a", 0.1) == "CONTINUE", "the first has nothing to be compared with"
    end("a", 0.5)
    assert isinstance(searcher.suggest("d"), dict)
    assert rung("d", 0.49) == "STOP" and rung("d", 0.5) == "CONTINUE", "b and c are better, but they may end later the next time"
    assert scheduler.on_trial_result(None, SimpleNamespace(trial_id="d"), {"epoch": 1}) == "CONTINUE"  # type: ignore[arg-type]


def test_what_ended_before_a_kill_is_not_run_again_and_all_is_told(tmp_path: Path) -> None:
    killed = machine(tmp_path, 1, 4, storage=None)
    killed.run(TRIALS, reports=40)
    ended = set(killed.arrived)
    open_before = {a["number"]: (a["variant"], a["hyper"]) for a in killed.asked if a["number"] not in ended}
    assert open_before and killed.log.record.untold, "some run, and some have ended that the sampler has not heard of"
    again = machine(tmp_path, 2, 4, storage=None)
    assert {t.number for t in again.log.trials} == ended
    again.run(TRIALS - len(ended))
    first = {a["number"]: (a["variant"], a["hyper"]) for a in again.asked[: len(open_before)]}
    assert first == open_before, "what was interrupted goes on first"
    states = [t.state.name for t in optuna.load_study(study_name="small", storage=again.log.record.url).trials]
    assert len(states) == TRIALS and set(states) == {"COMPLETE", "PRUNED", "FAIL"}
    assert sorted(t.number for t in again.log.trials) == list(range(TRIALS))


class Restless(InProcess):
    """A trial that takes its time at random."""

    def step(self) -> dict[str, Any]:
        time.sleep(random.SystemRandom().uniform(0.0, 0.2))
        return super().step()


@pytest.mark.ray
def test_the_same_search_twice_gives_the_same_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from raeflow.cluster import search as room
    from raeflow.cluster import session

    session.connect()
    ours = room._trainable

    def restless(*given: Any) -> tuple[Any, Any]:
        monkeypatch.setattr(room, "InProcess", Restless)
        return ours(*given)

    monkeypatch.setattr(room, "_trainable", restless)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    tables, lines = [], []
    try:
        for home in (tmp_path / "one", tmp_path / "two"):
            said: list[str] = []
            one = study(home, search=Search(trials=8, slots=2), cluster=Cluster(max_failures=0))
            tables.append(table(search(one, splits(), progress=said.append)))
            lines.append([line.rsplit(" ", 2)[0] for line in said[1:]])  # without seconds
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert tables[0] == tables[1]
    assert lines[0] == lines[1] and len(lines[0]) == 8
    assert {row[6] for row in tables[0]} == {"complete", "pruned"}
