from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from toy import alone, environment, scores

import fewer
from fewer.core.curve import Curve, Point
from fewer.core.errors import FewerError
from fewer.race.engine import Event, Failed, Finished, Measured, Planned, Showed, Started, Stopped
from fewer.race.outcome import Outcome, Run
from fewer.race.store import Store

Begun = Callable[[], list[tuple[float, int, int, int]]]
PAIR = ["walk(drift=0.1)", "walk(drift=0.2)"]


# --- what a race gives -------------------------------------------------------------------------


def test_a_race_gives_what_its_loops_give_alone(run: Callable[..., Outcome], hill: str) -> None:
    outcome = run({"slow": "walk(drift=.1)", "fast": " walk( drift=0.2 ) "}, seeds=[4, 1])
    assert (outcome.task, outcome.metric, outcome.unit, outcome.budget) == (hill, "height", "steps", 4)
    assert outcome.seeds == (4, 1)
    assert dict(outcome.entries) == {"slow": "walk(drift=0.1)", "fast": "walk(drift=0.2)"}
    assert [(each.entry, each.seed) for each in outcome.runs] == [("slow", 4), ("fast", 4), ("slow", 1), ("fast", 1)]
    for each in outcome.runs:
        assert each.status == "done"
        assert scores(each) == alone(hill, outcome.entries[each.entry], each.seed)
        assert each.curve is not None
        assert each.seconds == each.curve.points[-1].extras["seconds"] > 0


def test_seeds_are_a_number_or_a_list(run: Callable[..., Outcome]) -> None:
    assert run(seeds=2, first_seed=7).seeds == (7, 8)
    assert run(PAIR[:1], seeds=[8]).seeds == (8,)


def test_events_tell_the_whole_story_after_it_is_stored(run: Callable[..., Outcome], tmp_path: Path) -> None:
    told: list[tuple[Event, Run]] = []
    stored = []

    def listen(event: Event, of: Run) -> None:
        told.append((event, of))
        with Store(tmp_path / "races.db") as reader:
            kept = reader.runs(reader.races()[0].id)[event.run]
            stored.append((kept.curve, kept.error) == (of.curve, of.error))

    outcome = run([PAIR[0], "walk(then='raise')"], on_event=listen)
    assert [type(event) for event, _ in told[:4]] == [Planned] * 4
    assert [(of.entry, of.seed, of.status) for _, of in told[:4]] == [
        (label, seed, "waiting") for seed in (0, 1) for label in (PAIR[0], "walk(then='raise')")
    ]
    assert all(stored)
    for each in outcome.runs:
        mine = [(event, of) for event, of in told if (of.entry, of.seed) == (each.entry, each.seed)]
        steps = 2 if each.status == "failed" else 4
        last = Failed if each.status == "failed" else Finished
        assert [type(event) for event, _ in mine] == [Planned, Started, *[Measured] * steps, last]
        assert [len(of.curve or ()) for _, of in mine] == [0, 0, *range(1, steps + 1), steps]
        assert [of.status for _, of in mine] == ["waiting", *["running"] * (steps + 1), each.status]
        assert mine[-1][1] == each


def test_failures_are_kept_with_their_reasons_and_stop_nobody(run: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = run(["walk", "walk(then='raise')", "walk(then='diverge')", "walk(then='exit')"], seeds=1)
    assert [each.status for each in outcome.runs] == ["done", "failed", "failed", "failed"]
    assert [each.error for each in outcome.failed] == [
        "RuntimeError: the sky is falling",
        "the score became nan after 3 steps; lower the learning rate",
        "its worker ended with exit status 3; start the race again to go on from the last point",
    ]
    assert [len(scores(each)) for each in outcome.failed] == [2, 2, 2]
    with Store(tmp_path / "races.db") as store:
        (row,) = store.races()
        assert (row.done, row.failed) == (1, 3)
        assert "in _misbehave" in store.traceback(row.id, "walk(then='raise')", 0)


def test_nothing_is_kept_of_a_race_in_memory(run: Callable[..., Outcome], tmp_path: Path) -> None:
    assert all(each.status == "done" for each in run(store=":memory:").runs)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["hill", "hill.log"]


def test_by_default_a_race_is_kept_below_the_current_folder(
    run: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(PAIR[:1], seeds=1, store=None)
    assert sorted(file.name for file in (tmp_path / ".fewer").iterdir()) == [
        "races.db",
        "races.db.checkpoints",
        "races.db.lock",
    ]
    assert not list((tmp_path / ".fewer" / "races.db.checkpoints").iterdir())


def test_the_function_does_not_hide_the_package() -> None:
    code = "import sys, fewer.race; assert 'torch' not in sys.modules; from fewer.race import Store, race; race; Store"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())
    with pytest.raises(AttributeError, match=r"module 'fewer\.race' has no attribute 'walk'"):
        fewer.race.walk  # noqa: B018


# --- what is there is not run again ------------------------------------------------------------


def test_more_entries_and_more_seeds_use_what_is_there(run: Callable[..., Outcome], begun: Begun) -> None:
    first = run(PAIR[:1], seeds=1)
    assert len(begun()) == 4
    assert run(PAIR[:1], seeds=1) == first
    assert len(begun()) == 4
    more = run({"x": PAIR[1], "y": PAIR[0]}, seeds=2)
    assert Counter((drift, seed) for drift, seed, *_ in begun()) == dict.fromkeys(
        [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)], 4
    )
    assert more.of("y")[0].curve == first.runs[0].curve
    told = []
    run({"x": PAIR[1], "y": PAIR[0]}, seeds=2, on_event=lambda *both: told.append(both))
    assert [(type(event), of.status, len(of.curve)) for event, of in told] == [(Planned, "done", 4)] * 4


@pytest.mark.parametrize(
    "change", [{"budget": 5}, {"task": "data"}, {"task": "place"}, {"version": "99"}, {"fresh": True}], ids=str
)
def test_what_decides_a_result_names_the_run(
    run: Callable[..., Outcome],
    begun: Begun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
) -> None:
    run(PAIR[:1], seeds=1)
    if change.get("task") == "data":
        (tmp_path / "hill").write_bytes(b"flat")
        change = {}
    elif change.get("task") == "place":
        (tmp_path / "hill").rename(tmp_path / "hill.moved")
        (tmp_path / "hill.log").rename(tmp_path / "hill.moved.log")
        change = {"task": f"hill({str(tmp_path / 'hill.moved')!r})"}
    elif "version" in change:
        monkeypatch.setattr(fewer, "__version__", change["version"])
        change = {}
    outcome = run(PAIR[:1], seeds=1, **change)
    log = next(tmp_path.glob("*.log")).read_text().splitlines()
    assert len(log) == 4 + len(scores(outcome.runs[0]))


def test_a_failed_run_is_tried_again_from_its_last_point(run: Callable[..., Outcome], begun: Begun, hill: str) -> None:
    first = run(["walk(then='crash')", *PAIR[:1]], seeds=1)
    assert [each.status for each in first.runs] == ["failed", "done"]
    second = run(["walk(then='crash')", *PAIR[:1]], seeds=1)
    assert [(each.status, each.error) for each in second.runs] == [("done", None)] * 2
    assert scores(second.runs[0]) == alone(hill, "walk", 0)
    first_entry = [step for drift, _, step, pid in begun() if pid != os.getpid()]
    assert Counter(first_entry) == {1: 2, 2: 2, 3: 3, 4: 2}  # both entries, and round 3 again


def test_a_run_that_gives_another_score_than_before_is_refused(run: Callable[..., Outcome], tmp_path: Path) -> None:
    good = run(seeds=1)
    with Store(tmp_path / "races.db", write=True) as store:
        first, _ = store.runs(store.races()[0].id)
        store.forget([first])
        store.record(first, Point(2, 123.0))
    told: list[Event] = []
    outcome = run(seeds=1, on_event=lambda event, of: told.append(event))
    assert [each.status for each in outcome.runs] == ["failed", "done"]
    error = outcome.runs[0].error or ""
    assert error.endswith("its code or its machine has changed; race it afresh (--fresh)")
    assert "where it had scored 123.0 at 2" in error
    assert [type(event) for event in told if event.run == first] == [Planned, Started, Failed]
    assert [scores(each) for each in run(seeds=1, fresh=True).runs] == [scores(each) for each in good.runs]


# --- hopeless runs are stopped, if one asks for it ---------------------------------------------


@dataclass(frozen=True)
class Behind:
    """Instead of a network: hopeless is who is far behind."""

    horizon: float = 40.0

    def __call__(self, curve: Curve, best: float) -> bool:
        return curve.final < best - 5

    def chance(self, curve: Curve, best: float) -> float:
        return 0.0123


UP, DOWN = "walk(drift=9.0, pause=0.005)", "walk(drift=-9.0, pause=0.01)"


def test_a_hopeless_run_is_stopped_and_keeps_its_points_and_the_reason(
    run: Callable[..., Outcome], tmp_path: Path, hill: str, begun: Begun
) -> None:
    told: list[tuple[Event, Run]] = []
    listen = lambda event, of: told.append((event, of))  # noqa: E731
    outcome = run([UP, DOWN], 40, 1, hopeless=Behind(), on_event=listen)
    up, down = outcome.runs
    assert (up.status, down.status) == ("done", "stopped")
    assert outcome.stopped == (down,)
    assert outcome.curves(DOWN) == []
    assert 1 <= len(scores(down)) < 40
    assert scores(down) == alone(hill, DOWN, 0, 40)[: len(scores(down))]
    assert re.fullmatch(
        r"at \d+ of 40 its score was -\S+ and its chance to end above \S+ \(walk\(drift=9.0, pause=0.005\), seed 0\) "
        r"1\.23%",
        down.error or "",
    )
    (last,) = (pair for pair in told if isinstance(pair[0], Stopped))
    assert last[1] == down
    with Store(tmp_path / "races.db") as store:
        assert store.outcome(store.races()[0].id) == outcome
    before = len(begun())
    assert run([UP, DOWN], 40, 1, hopeless=Behind()) == outcome  # nothing is run again
    assert len(begun()) == before
    resumed = run([UP, DOWN], 40, 1)
    assert [each.status for each in resumed.runs] == ["done", "done"]
    assert resumed.runs[1].error is None
    assert scores(resumed.runs[1]) == alone(hill, DOWN, 0, 40)
    assert len(begun()) == before + 40 - len(scores(down)) + 40  # from its last point, and once more alone


def test_without_a_rival_nobody_is_hopeless(run: Callable[..., Outcome]) -> None:
    (only,) = run([DOWN], 6, 1, hopeless=Behind()).runs
    assert only.status == "done"


def test_a_score_out_of_range_is_told(run: Callable[..., Outcome]) -> None:
    from fewer.incontext.extrapolation import StopHopeless

    with pytest.raises(FewerError, match="is outside the range 0 to 1; give the range that scores can have"):
        run([UP, DOWN], 50, 1, hopeless=StopHopeless(50))


# --- what cannot run is refused before anything starts -----------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entries": []}, "no entry was given; name one method or more"),
        ({"entries": "walk"}, r"entries is the text 'walk'; give a list of specs: \['walk'\]"),
        ({"entries": ["walk", "run"]}, "entry run: unknown name 'run'"),
        ({"entries": {"mine": "run"}}, "entry mine: unknown name 'run'"),
        ({"entries": ["walk", "walk("]}, r"cannot read 'walk\(': a bracket or a quote is not closed"),
        ({"entries": ["walk", "walk ( )"]}, "the entries 'walk' and 'walk . .' are the same, walk; keep one of them"),
        ({"entries": {"a": "walk", "b": "walk"}}, "the entries 'a' and 'b' are the same, walk; keep one"),
        (
            {"entries": ["walk", "crawl"]},
            r"these entries spend different things .*: walk \(steps\), crawl \(inches\); race them apart",
        ),
        ({"entries": ["walk", "fussy"]}, "entry fussy: Fussy runs on a OtherTask task; hill.* is a Task"),
        (
            {"entries": ["walk", "walk(first=9)"]},
            r"entry walk\(first=9\): a budget of 4 steps is below the first round, which takes 9",
        ),
        ({"budget": 0}, "the budget is 0; give one sample or more"),
        ({"seeds": 0}, "seeds is 0; give one or more"),
        ({"seeds": []}, r"seeds is \[\]; give one or more"),
        ({"seeds": [1, 2, 1]}, "seed 1 is given twice; runs of equal seed are the same run"),
        ({"engine": "lokal"}, r"unknown engine 'lokal'; did you mean local\?"),
    ],
)
def test_a_request_that_cannot_run(
    run: Callable[..., Outcome], begun: Begun, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(FewerError, match=f"^{message}"):
        run(**change)
    assert not begun()


def test_two_drivers_of_one_store(run: Callable[..., Outcome]) -> None:
    refused = []

    def listen(event: Event, of: Run) -> None:
        if isinstance(event, Finished):
            with pytest.raises(
                FewerError, match=r"races.db: another race \(process \d+\) is writing to it; wait"
            ) as told:
                run(["walk"])
            refused.append(told)

    outcome = run(PAIR[:1], seeds=1, on_event=listen)
    assert len(refused) == 1
    assert outcome.runs[0].status == "done"


# --- what runs make ----------------------------------------------------------------------------


def test_what_a_run_makes_is_told_kept_and_given(run: Callable[..., Outcome], tmp_path: Path) -> None:
    told: list[Event] = []
    outcome = run(["talk(drift=0.1)", "walk"], seeds=1, on_event=lambda event, _: told.append(event))
    talked, walked = outcome.runs
    assert [(each.spent, each.rows[0].made) for each in talked.samples] == [(0, r"\x1b0"), (4, r"\x1b4")]
    assert talked.curve is not None
    assert talked.samples[1].rows[0].score == talked.curve.final
    assert walked.samples == ()
    shown = [event.samples.spent for event in told if isinstance(event, Showed)]
    assert shown == [0, 1, 2, 3, 4]
    assert [event.watched for event in told if isinstance(event, Planned)] == [("threads",), ()]
    with Store(tmp_path / "races.db") as reader:
        assert reader.outcome(reader.races()[0].id) == outcome


def test_a_run_that_failed_keeps_what_it_made_so_far_and_goes_on(run: Callable[..., Outcome]) -> None:
    failed = run(["talk(then='crash')"], seeds=1).runs[0]
    assert failed.status == "failed"
    assert [each.spent for each in failed.samples] == [0, 2]
    again = run(["talk(then='crash')"], seeds=1).runs[0]
    assert again.status == "done"
    assert [each.spent for each in again.samples] == [0, 4]
