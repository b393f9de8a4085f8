from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from fewer import __version__, cli
from fewer.core.errors import FewerError

RUN = CliRunner()


def fewer(*arguments, cwd=None, **environment):
    """The command as a user runs it, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "fewer.cli", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def output(*arguments):
    result = RUN.invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


# --- looking around ----------------------------------------------------------------------------


def test_the_version_and_help():
    assert output("--version") == f"fewer {__version__}\n"
    for verb in ("list", "find", "show", "tasks", "race", "plan", "select", "claim", "claims"):
        assert verb in output("--help")


def test_python_m_fewer_is_the_command():
    for ask, code in (("--version", 0), ("show", 2)):
        done = [
            subprocess.run([sys.executable, "-m", module, ask], capture_output=True, text=True, check=False)
            for module in ("fewer", "fewer.cli")
        ]
        assert done[0].returncode == done[1].returncode == code
        assert done[0].stdout == done[1].stdout
        assert done[0].stderr == done[1].stderr.replace("fewer.cli", "fewer")


def test_list_is_one_paper_a_line_for_other_programs():
    lines = output("list").splitlines()
    assert len(lines) == 127
    assert lines[-1] == "126 of 126 papers"
    assert all(line.count("\t") == 3 for line in lines[:-1])
    assert "annotator" in output("list", "--short-of", "labels", "voxel")


def test_list_imports_nothing_heavy():
    code = (
        "import sys\nfrom fewer import cli\nsys.argv = ['fewer', 'list']\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numpy', 'pandas', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_find_says_what_it_ranked_by():
    text = output("find", "label", "budget", "for", "point", "clouds", "-n", "3")
    assert "annotator" in text
    assert "ranked by meaning (MiniLM)" in text or "ranked by words (BM25)" in text


def test_show_a_paper_that_works_and_one_that_is_planned():
    text = output("show", "pcoreset")
    for part in ("arXiv:2506.00910", "The idea:", "fewer claim pcoreset", "-m pcoreset"):
        assert part in text
    assert "Planned" in output("show", "spr")


def test_tasks_names_all_parts():
    text = output("tasks")
    for name in ("digits", "csv", "active-learning", "supervised", "margin", "k-centre"):
        assert name in text


# --- racing ------------------------------------------------------------------------------------


def test_a_race_prints_a_table_a_sentence_and_writes_what_was_asked(tmp_path):
    made = fewer(
        "race", "digits", "-m", "random", "-m", "margin", "--budget", 30, "--seeds", 2, "--target", 0.6,
        "--report", "r.html", "--plot", "r.svg", "--plot", "r.png", cwd=tmp_path,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "To reach 0.6 accuracy on digits:" in made.stdout
    assert "[4/4]" in made.stderr  # not a terminal: a line for each run that ends
    for name in ("r.html", "r.svg", "r.png", ".fewer/races.db"):
        assert (tmp_path / name).stat().st_size > 0
    again = fewer("race", "digits", "-m", "random", "-m", "margin", "--budget", 30, "--seeds", 2, cwd=tmp_path)
    assert again.returncode == 0
    assert "[1/" not in again.stderr  # nothing was run twice


def test_a_race_logs_its_runs_for_other_programs(tmp_path):
    asked = (
        "race",
        "digits",
        "-m",
        "margin",
        "-m",
        "random + mlp(lr=0.01)",
        "--budget",
        30,
        "--seeds",
        2,
        "--workers",
        1,
    )
    made = fewer(*asked, "--log", "logs", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    tables = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("progress.csv"))
    entries = ("margin", "random_+_mlp(lr=0.01)")
    assert tables == [f"logs/{entry}/seed-{seed}/progress.csv" for entry in entries for seed in (0, 1)]
    for table in tables:
        lines = (tmp_path / table).read_text().splitlines()
        assert lines[0].startswith("samples,score,")
        assert [line.split(",")[0] for line in lines[1:]] == ["10", "20", "30"]
        assert len(list((tmp_path / table).parent.glob("*tfevents*"))) == 1
    (tmp_path / "file").write_text("")
    refused = fewer(*asked, "--log", "file", cwd=tmp_path)
    assert (refused.returncode, "cannot write file" in refused.stderr) == (2, True)


def test_a_figure_may_show_another_measure(tmp_path):
    asked = ("race", "riverswim(n=4, horizon=8)", "-m", "psrl", "--budget", 20, "--seeds", 2, "--draw", "regret")
    made = fewer(*asked, "--plot", "regret.svg", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "regret on riverswim" in (tmp_path / "regret.svg").read_text()
    alone = fewer(*asked, cwd=tmp_path)
    assert (alone.returncode, "add --plot figure.png" in alone.stderr) == (2, True)


def test_a_failed_run_is_told_and_the_others_are_kept(tmp_path):
    made = fewer("race", "digits", "-m", "random", "-m", "mlp(lr=1e30)", "--budget", 20, "--seeds", 1, cwd=tmp_path)
    assert made.returncode == 2
    assert "1 of 2 runs failed (the first: mlp(lr=1e+30), seed 0: the score became nan" in made.stderr
    assert "random" in made.stdout
    assert "Traceback" not in made.stderr


def test_hopeless_runs_are_stopped_on_demand(tmp_path):
    asked = ("race", "digits", "-m", "margin", "-m", "mlp(lr=1e-9)", "--budget", 200, "--seeds", 1, "--workers", 1)
    made = fewer(*asked, "--stop-hopeless", "--report", "r.html", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "Runs that were stopped as hopeless and are left out: 1 of 1 of mlp(lr=1e-09)." in made.stdout
    assert "seed 0: stopped: at " in made.stderr
    assert "its chance to end above" in (tmp_path / "r.html").read_text()
    endless = fewer(*asked, "--stop-hopeless", "--range", "0,inf", cwd=tmp_path)
    assert endless.returncode == 2
    assert "--stop-hopeless needs a finite range of scores; given --range 0,inf" in endless.stderr


def test_plan_says_how_many_more(tmp_path):
    rows = "".join(f"{10 * k},{0.95 - 0.6 / k}\n" for k in range(1, 13))
    (tmp_path / "curve.csv").write_text(f"labels,accuracy\n{rows}")
    text = output("plan", tmp_path / "curve.csv", "--target", 0.92, "--plot", tmp_path / "plan.png")
    assert text.startswith("accuracy reaches 0.92 after about ")
    assert "more than the 120 so far (50 % interval " in text
    assert "within 480 labels is " in text
    assert (tmp_path / "plan.png").stat().st_size > 5000
    down = "".join(f"{10 * k},{5 + 60 / k}\n" for k in range(1, 13))
    (tmp_path / "loss.csv").write_text(f"step,ppl\n{down}")
    text = output(
        "plan", tmp_path / "loss.csv", "--target", 8, "--lower-is-better", "--range", "0,inf", "--horizon", 900
    )
    assert text.startswith("ppl ")
    both = output(
        "plan", tmp_path / "curve.csv", tmp_path / "curve.csv", "--target", 0.92, "--columns", "labels,accuracy"
    )
    assert both.startswith("accuracy reaches 0.92 after about ")


ERRORS = {
    "a curve that falls": (("plan", "falling.csv", "--target", 0.9), "falling.csv: the curve falls, from 0.8 at 1 to"),
    "a curve of one point": (("plan", "one.csv", "--target", 0.9), "one.csv: the curve has one point"),
    "a curve out of its range": (("plan", "percent.csv", "--target", 0.9), "percent.csv: a score of 50 is outside"),
    "an unsorted curve": (("plan", "unsorted.csv", "--target", 0.9), "unsorted.csv: a curve's samples must increase"),
    "a target already reached": (("plan", "good.csv", "--target", 0.4), "the target 0.4 is reached already"),
    "a horizon behind": (("plan", "good.csv", "--target", 0.9, "--horizon", 2), "must lie beyond the last point (3)"),
    "a range that is none": (("plan", "good.csv", "--target", 0.9, "--range", "1"), "--range takes two values"),
    "an unwritable figure": (
        ("plan", "good.csv", "--target", 0.9, "--plot", "text.csv/p.png"),
        "cannot write text.csv",
    ),
    "no curve": (("plan", "none.csv", "--target", 0.9), "there is no file none.csv"),
    "a slot filled twice": (("race", "digits", "-m", "margin + entropy", "--budget", 50), "both fill the slot query"),
    "an unknown method": (("race", "digits", "-m", "margim", "--budget", 50), "did you mean margin?"),
    "an unknown task": (("race", "digts", "-m", "margin", "--budget", 50), "did you mean digits"),
    "a budget below the first round": (
        ("race", "digits", "-m", "margin", "--budget", 5),
        "a budget of 5 labels is below the first round, which takes 10",
    ),
    "a file that is not there": (("race", "csv('none.csv', target='y')", "-m", "margin", "--budget", 50), "none.csv"),
    "missing labels": (("race", "csv('holes.csv', target='y')", "-m", "margin", "--budget", 50), "holes.csv"),
    "text among numbers": (("race", "csv('text.csv', target='y')", "-m", "margin", "--budget", 50), "'oops'"),
    "an unwritable report": (
        ("race", "digits", "-m", "margin", "--budget", 50, "--report", "text.csv/r.html"),
        "cannot write text.csv/r.html",
    ),
    "an unwritable store": (
        ("race", "digits", "-m", "margin", "--budget", 50, "--store", "text.csv/r.db"),
        "text.csv/r.db",
    ),
    "an unknown engine": (("race", "digits", "-m", "margin", "--budget", 50, "--engine", "x"), "choose local or ray"),
    "an address without ray": (
        ("race", "digits", "-m", "margin", "--budget", 50, "--address", "a"),
        "add --engine ray",
    ),
    "an unknown paper": (("show", "pcorest"), "did you mean pcoreset"),
    "nothing to find": (("find", "??"), "has no word to look for"),
    "a claim of nobody": (("claim",), "or say --all"),
    "a tiny result to save": (("claim", "seta", "--tiny", "--save"), "leave out one of"),
    "a planned claim": (("claim", "spr"), "spr is planned"),
    "a pool that is not there": (("select", "no.csv", "-m", "margin", "--keep", 3), "no.csv"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    rows = [f"{i},{i * 2},{'ab'[i % 2]}" for i in range(40)]
    (folder / "holes.csv").write_text("\n".join(["a,b,y", *rows[:-1], "1,2,"]) + "\n")
    (folder / "text.csv").write_text("\n".join(["a,b,y", *rows[:-1], "1,oops,a"]) + "\n")
    curves = {"falling": (0.8, 0.7, 0.6), "one": (0.5,), "percent": (50, 60), "good": (0.4, 0.5, 0.6)}
    for name, scores in curves.items():
        rows = [f"{spent},{score}" for spent, score in enumerate(scores, 1)]
        (folder / f"{name}.csv").write_text("\n".join(["samples,score", *rows]) + "\n")
    (folder / "unsorted.csv").write_text("samples,score\n2,0.5\n1,0.4\n")
    return folder


@pytest.mark.parametrize("name", ERRORS)
def test_what_is_wrong_is_one_line_and_status_two(name, folder):
    arguments, message = ERRORS[name]
    made = fewer(*arguments, cwd=folder)
    assert made.returncode == 2, made.stdout + made.stderr
    assert made.stderr.startswith("fewer: ")
    assert message in made.stderr
    assert made.stderr.count("\n") == 1, made.stderr


def test_debug_shows_the_traceback(folder):
    made = fewer("show", "pcorest", "--debug", cwd=folder)
    assert made.returncode not in (0, 2)
    assert "Traceback" in made.stderr
    assert "FewerError" in made.stderr


def test_a_reader_that_goes_away_is_no_error():
    made = subprocess.run(
        f"{sys.executable} -m fewer.cli list | head -n 1", shell=True, capture_output=True, text=True, check=True
    )
    assert made.stderr == ""


# --- claims ------------------------------------------------------------------------------------


def test_a_tiny_claim_runs_and_says_that_it_is_no_verdict():
    text = output("claim", "hast", "--tiny", "--workers", "1")
    assert "this is no verdict" in text
    assert "seeds from 0" in text


def test_the_board_in_three_forms(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    assert "pcoreset" in output("claims", "--results", results)
    output("claims", "--results", results, "--markdown", tmp_path / "board.md", "--html", tmp_path / "site")
    assert "| " in (tmp_path / "board.md").read_text()
    assert (tmp_path / "site" / "index.html").exists()
    assert (tmp_path / "site" / "pcoreset.html").exists()
    (results / "seta.json").write_text(json.dumps({"paper": "seta", "verdict": "holds", "claims": []}))
    with pytest.raises(FewerError, match=r"seta\.json was not written by 'fewer claim --save'"):
        output("claims", "--results", results)
