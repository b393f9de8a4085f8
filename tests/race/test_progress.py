from __future__ import annotations

import io

import pytest
from rich.console import Console

from fewer.core.curve import Curve, Point
from fewer.race.engine import Counted, Measured, Planned, Started
from fewer.race.outcome import Run
from fewer.race.progress import Progress, RunProgress, speed


def curve(*triples):
    return Curve(tuple(Point(spent, score, {"seconds": seconds}) for spent, score, seconds in triples))


def drawn(progress, console):
    console.print(progress._draw())
    return console.file.getvalue()


def console(terminal=True):
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)


def test_speed_is_that_of_the_last_stretch():
    assert speed(curve((10, 0, 4.0))) == 2.5
    assert speed(curve((10, 0, 4.0), (40, 0, 10.0))) == 5.0
    assert speed(Curve.of([(10, 0.5), (20, 0.6)])) is None


def test_the_table_says_speed_and_time_left_of_runs_that_run():
    out = console()
    progress = Progress(out, budget=1000)
    progress(None, Run("sac", 0, "running", curve=curve((100, 1.0, 10.0), (200, 2.0, 15.0))))
    progress(None, Run("td3", 0, "waiting"))
    progress(None, Run("rlpd", 0, "done", curve=curve((1000, 1.0, 10.0))))
    lines = {line.split()[0]: line.split() for line in drawn(progress, out).splitlines() if line.strip()}
    # 100 samples in 5 s, 800 to go
    assert lines["sac"][-4:] == ["200", "20", "0:40", "2"]
    assert lines["rlpd"][-2:] == ["1000", "1"]
    assert lines["td3"][-1] == "0"
    assert "per second" in out.file.getvalue()


def test_without_a_terminal_a_line_for_each_point():
    out = console(terminal=False)
    with RunProgress(out, 400, "environment steps", lambda: 0) as progress:
        progress(curve((100, -3.25, 10.0)))
        progress(curve((100, -3.25, 10.0), (200, -1.0, 15.0)))
        progress(Curve.of([(400, 0.5)]))
    assert out.file.getvalue().splitlines() == [
        "100 of 400 environment steps, 10 a second, 0:30 left: score -3.25",
        "200 of 400 environment steps, 20 a second, 0:10 left: score -1",
        "400 of 400 environment steps: score 0.5",
    ]


def test_the_bar_looks_at_the_run_itself():
    spent, out = [0], console()
    with RunProgress(out, 400, "environment steps", lambda: spent[0]) as progress:
        spent[0] = 300
        progress(curve((200, -1.0, 15.0)))
        bar = progress._bar
        list(bar.get_renderables())
        assert bar.tasks[0].completed == 300
        spent[0] = 500  # never beyond its end
        list(bar.get_renderables())
        assert bar.tasks[0].completed == 400
    said = out.file.getvalue()
    assert "score -1" in said
    assert "environment steps" in said
    assert bar.live.is_started is False


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_a_run_that_is_over_has_no_time_left(status):
    out = console()
    progress = Progress(out, budget=1000)
    progress(None, Run("sac", 0, status, curve=curve((100, 1.0, 10.0)), error="no"))
    assert "0:" not in drawn(progress, out).splitlines()[1]


def test_what_is_watched_of_a_run_is_shown_while_it_is_made():
    def at(run, **measures):
        point = Point(100, 0.5, {"seconds": 1.0, "loss": 0.1, **measures})
        return Run(run, 0, "running", curve=Curve((point,)))

    out = console()
    progress = Progress(out, budget=1000)
    for run, watched in {"grpo": ("reward", "[bold]tokens"), "remax": ("reward", "entropy"), "plain": ()}.items():
        progress(Planned(run, watched), Run(run, 0, "waiting"))
    progress(None, at("grpo", reward=0.25, entropy=1.0, **{"[bold]tokens": 12345.6}))
    progress(None, at("remax", reward=0.125))
    progress(None, at("plain"))
    lines = [line.split() for line in drawn(progress, out).splitlines()]
    head = lines.index(["run", "seed", "reward", "[bold]tokens"])  # what no point has yet takes no room
    assert lines[head + 1] == ["grpo", "0", "0.25", "12,346"]
    assert lines[head + 2] == ["remax", "0", "0.125"]
    assert "plain" not in [line[0] for line in lines[head + 1 :] if line]


def test_a_line_of_a_run_that_is_over_says_what_is_watched():
    out = console(terminal=False)
    progress = Progress(out, budget=100)
    progress(Planned("grpo", ("reward", "late")), Run("grpo", 0, "waiting"))
    point = Point(100, 0.5, {"reward": 0.25, "loss": 1.0})
    progress(None, Run("grpo", 0, "done", curve=Curve((point,))))
    assert out.file.getvalue() == "[1/1] grpo, seed 0: score 0.5, reward 0.25\n"


def line(progress, name="grpo"):
    out = console()
    return next(each.split() for each in drawn(progress, out).splitlines() if each.split()[:1] == [name])


def test_between_points_a_run_that_counts_as_it_goes_moves(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("fewer.race.progress.time.monotonic", lambda: now[0])
    progress, run = Progress(console(), budget=1000), Run("grpo", 0, "running")
    progress(Planned("r"), Run("grpo", 0, "waiting"))
    progress(Started("r"), run)
    for spent in (0, 40, 80):
        progress(Counted("r", spent), run)
        now[0] += 10
    # 80 samples in 20 seconds, 920 to go
    assert line(progress)[-3:] == ["80", "4", "3:50"]
    assert "left" in progress._summary()
    point = Run("grpo", 0, "running", curve=curve((100, 0.5, 50.0)))
    progress(Measured("r", point.curve.points[-1]), point)
    assert line(progress)[-4:] == ["100", "2", "7:30", "0.5"]
    progress(Counted("r", 200), point)
    assert line(progress)[-4:] == ["100", "2", "7:30", "0.5"]  # it may have counted the next point's all at once
    for spent in (210, 220):
        progress(Counted("r", spent), point)
    assert line(progress)[-4:] == ["220", "2", "6:30", "0.5"]  # by the speed between points
    progress(Counted("r", 1100), point)
    assert line(progress)[-4:] == ["1000", "2", "0:00", "0.5"]  # never beyond its end
    over = Run("grpo", 0, "failed", curve=point.curve, error="no")
    progress(None, over)
    assert line(progress)[-2:] == ["100", "0.5"]


def test_a_run_that_counts_a_point_at_once_stays_where_its_last_point_is():
    progress, run = Progress(console(), budget=1000), Run("grpo", 0, "running")
    progress(Started("r"), run)
    for spent in (0, 500):
        progress(Counted("r", spent), run)
    assert line(progress)[-1] == "0"


def test_counts_print_no_lines_where_there_is_no_terminal():
    out = console(terminal=False)
    progress, run = Progress(out, budget=1000), Run("grpo", 0, "running")
    progress(Started("r"), run)
    for spent in (0, 40, 80, 120):
        progress(Counted("r", spent), run)
    assert out.file.getvalue() == ""
