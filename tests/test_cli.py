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
    for verb in ("list", "find", "show", "tasks", "race", "select", "claim", "claims"):
        assert verb in output("--help")


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


def test_a_failed_run_is_told_and_the_others_are_kept(tmp_path):
    made = fewer("race", "digits", "-m", "random", "-m", "mlp(lr=1e30)", "--budget", 20, "--seeds", 1, cwd=tmp_path)
    assert made.returncode == 2
    assert "1 of 2 runs failed (the first: mlp(lr=1e+30), seed 0: the score became nan" in made.stderr
    assert "random" in made.stdout
    assert "Traceback" not in made.stderr


ERRORS = {
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
