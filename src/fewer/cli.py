"""The command: each verb is a few lines over the library.

Nothing heavy is imported until a verb needs it, so that looking around answers at once.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewer import __version__
from fewer.core.errors import FewerError

if TYPE_CHECKING:
    from rich.console import Console

    from fewer.catalogue import Paper

app = typer.Typer(
    name="fewer",
    help="Learn more from fewer samples: find a method, race methods on your task, re-measure what papers claim.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Seeds = Annotated[int | None, typer.Option("--seeds", min=1, help="How many seeds.")]
FirstSeed = Annotated[int, typer.Option("--first-seed", min=0, help="The first of them.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes at once; by default one a core.")]


def main() -> None:
    """Run the command; what the user can mend is one line and exit status 2."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        app([argument for argument in arguments if argument != "--debug"])
    except FewerError as error:
        if debug:
            raise
        print(f"fewer: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("fewer: stopped; what was measured is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        sys.stderr.close()
        sys.exit(141)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fewer {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


# --- looking around ----------------------------------------------------------------------------


@app.command("list")
def list_papers(
    text: Annotated[str | None, typer.Argument(help="Words that must all occur.")] = None,
    short_of: Annotated[
        str | None, typer.Option("--short-of", help="What you are short of: labels, rollouts …")
    ] = None,
    room: Annotated[str | None, typer.Option(help="One room of the house: labels, control …")] = None,
    state: Annotated[str | None, typer.Option(help="works or planned.")] = None,
) -> None:
    """List the papers, all or those that meet the conditions."""
    from fewer import search

    found = search.listing(short_of=short_of, room=room, state=state, text=text)
    _print_papers(found)
    _out().print(f"{len(found)} of {len(search.listing())} papers", style="dim")


@app.command()
def find(
    question: Annotated[list[str], typer.Argument(help="What you want, in your own words.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many papers.")] = 10,
) -> None:
    """Find the papers that answer a question, the best first."""
    from fewer import search

    found = search.find(" ".join(question), count)
    _print_papers([paper for paper, _ in found])
    _out().print(f"ranked by {found.by}", style="dim")


@app.command()
def show(slug: Annotated[str, typer.Argument(help="A paper's name, as in 'fewer list'.")]) -> None:
    """Show one paper: its idea, how to use it, what it composes with."""
    from fewer import catalogue

    paper = catalogue.show(slug)
    out = _out()
    out.print(f"{paper.slug}: {paper.title}", style="bold")
    out.print(f"arXiv:{paper.arxiv}, {paper.published}. Room {paper.room}; for who is short of {paper.short_of}.")
    out.print(f"\nThe idea: {paper.idea}.")
    for line in _usage(paper):
        out.print(line, highlight=False, markup=False)
    if paper.composes_with:
        out.print(f"\nComposes with {', '.join(paper.composes_with)}.")


def _usage(paper: Paper) -> list[str]:
    if paper.fills is None:
        return ["\nPlanned: not there yet."]
    module, name = paper.fills.split(":")
    public = f"fewer.{paper.room}"
    lines = [f"\nIn Python:   from {public} import {name}   (its file: {module.replace('.', '/')}.py)"]
    if paper.slots:
        lines.append(f"In a race:   fewer race TASK -m {paper.slug}   (it fills {' and '.join(paper.slots)})")
    return [*lines, f"Its claim:   fewer claim {paper.slug}"]


@app.command()
def tasks() -> None:
    """List the tasks and the names that can be raced on them."""
    from rich.table import Table

    from fewer import catalogue

    titles: dict[catalogue.Kind, str] = {"task": "tasks", "loop": "loops", "filling": "baselines and rivals"}
    for kind, title in titles.items():
        table = Table("name", "what it is", box=None, title=title, title_justify="left", title_style="bold")
        for name, part in catalogue.parts(kind).items():
            table.add_row(
                name, part.says if kind != "filling" else f"{part.says} ({part.room}: {', '.join(part.slots)})"
            )
        _out().print(table, "")


# --- racing ------------------------------------------------------------------------------------


@app.command()
def race(
    task: Annotated[str, typer.Argument(help="A task: mnist5k, or \"csv('churn.csv', target='left')\".")],
    method: Annotated[list[str], typer.Option("--method", "-m", help='An entry; repeat it. "hast + pcoreset" is one.')],
    budget: Annotated[int, typer.Option("--budget", min=1, help="Samples each run may spend.")],
    seeds: Seeds = 5,
    first_seed: FirstSeed = 0,
    target: Annotated[float | None, typer.Option("--target", help="Count the samples to this score.")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write an HTML page.")] = None,
    plot: Annotated[
        list[Path] | None, typer.Option("--plot", help="Write a figure (png, svg, pdf); repeat it.")
    ] = None,
    draw: Annotated[
        str | None, typer.Option("--draw", help="For --plot: a measure in place of the score, such as regret.")
    ] = None,
    store: Annotated[Path, typer.Option("--store", help="Where runs are kept.")] = Path(".fewer/races.db"),
    engine: Annotated[str, typer.Option("--engine", help="local or ray.")] = "local",
    address: Annotated[str | None, typer.Option("--address", help="Of a Ray cluster, for --engine ray.")] = None,
    workers: Workers = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run everything anew, whatever the store has.")] = False,
    stop_hopeless: Annotated[
        bool, typer.Option("--stop-hopeless", help="Stop runs that will hardly end above the best one.")
    ] = False,
    bounds: Annotated[str, typer.Option("--range", help="What scores can be, for --stop-hopeless.")] = "0,1",
    log: Annotated[
        Path | None, typer.Option("--log", help="A folder: for each run a CSV file and TensorBoard's events.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option("--video", help="A folder: for each run a film of an episode at each point.")
    ] = None,
) -> None:
    """Race methods on one task and one budget.  Started again, it does only what is missing."""
    from fewer.race import LocalEngine, RayEngine
    from fewer.race import race as run_race
    from fewer.race.logs import RaceLogs
    from fewer.race.progress import Progress

    _writable(report, *(plot or []), *(folder / "x" for folder in (log, video) if folder is not None))
    if draw is not None and not plot:
        raise FewerError("--draw says what a figure shows; add --plot figure.png, or leave it out")
    if engine not in ("local", "ray"):
        raise FewerError(f"unknown engine {engine!r}; choose local or ray")
    if engine == "local" and address is not None:
        raise FewerError("--address is for a Ray cluster; add --engine ray, or leave it out")
    hopeless = None
    if stop_hopeless:
        from fewer.incontext.extrapolation import ScoreRange, StopHopeless

        low, high = _pair(bounds, "--range", float)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise FewerError(f"--stop-hopeless needs a finite range of scores; given --range {bounds}")
        hopeless = StopHopeless(budget, scores=ScoreRange(low, high))
    made = RayEngine(address, workers) if engine == "ray" else LocalEngine(workers)
    with contextlib.ExitStack() as opened:
        opened.enter_context(made)
        watching: list[Callable[[Any, Any], None]] = [] if log is None else [opened.enter_context(RaceLogs(log))]
        watching.append(opened.enter_context(Progress(_err(), budget)))

        def tell(event: Any, run: Any) -> None:
            for each in watching:
                each(event, run)

        outcome = run_race(
            task,
            method,
            budget,
            seeds or 5,
            engine=made,
            store=store,
            first_seed=first_seed,
            on_event=tell,
            fresh=fresh,
            hopeless=hopeless,
            video=video,
            counted=_err().is_terminal,  # who reads a log wants no line four times a second
        )
    _present(outcome, target, report, plot or [], draw)
    if log is not None:
        _out().print(f"logs: {log}", style="dim", highlight=False)
    if video is not None:
        _out().print(f"films: {video}", style="dim", highlight=False)
    if outcome.failed:
        run = outcome.failed[0]
        raise FewerError(
            f"{len(outcome.failed)} of {len(outcome.runs)} runs failed (the first: {run.entry}, seed {run.seed}: "
            f"{run.error}); the others are kept, and the same command tries these again"
        )


def _present(
    outcome: Any, target: float | None, report: Path | None, plots: list[Path], draw: str | None = None
) -> None:
    from fewer.race import made
    from fewer.race import report as reports

    out = _out()
    out.print(reports.as_text(outcome, target))
    out.print(f"\n{reports.sentence(outcome, target)}", highlight=False, markup=False, soft_wrap=True)
    if (shown := made.as_text(outcome)) is not None:
        out.print(shown)
    for path in plots:
        if draw is None:
            reports.plot(outcome, path, target)
        else:
            reports.plot(outcome.measured(draw), path)
        out.print(f"figure: {path}", style="dim", highlight=False)
    if report is not None:
        reports.html(outcome, report, target)
        out.print(f"report: {report}", style="dim", highlight=False)


def _writable(*paths: Path | None) -> None:
    """Refuse a place that cannot be written before the work, not after it."""
    import os

    for path in paths:
        if path is None:
            continue
        folder = path.absolute().parent
        while not folder.exists():
            folder = folder.parent
        if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise FewerError(f"cannot write {path}; choose a file in a folder that is yours")


@app.command()
def plan(
    curves: Annotated[list[Path], typer.Argument(help="CSV files, folders of TensorBoard events, or stores of races.")],
    target: Annotated[float, typer.Option("--target", help="The score to reach.")],
    horizon: Annotated[
        float | None, typer.Option("--horizon", help="Samples up to which to look; by default four times those so far.")
    ] = None,
    bounds: Annotated[str, typer.Option("--range", help='What scores can be: "0,100", "0,inf".')] = "0,1",
    lower_is_better: Annotated[bool, typer.Option("--lower-is-better", help="For losses and errors.")] = False,
    columns: Annotated[str | None, typer.Option("--columns", help='Of a CSV file: "epoch,accuracy".')] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Of TensorBoard events: which scalar.")] = None,
    race: Annotated[str | None, typer.Option("--race", help="Of a store: which race, the newest by default.")] = None,
    entry: Annotated[str | None, typer.Option("--entry", help="Of a store: whose runs.")] = None,
    plot: Annotated[
        list[Path] | None, typer.Option("--plot", help="Write a figure (png, svg, pdf); repeat it.")
    ] = None,
) -> None:
    """Continue learning curves: how many more samples reach a target, and how surely.  Several are runs of one thing."""
    from fewer import curve_files
    from fewer import plan as plans

    _writable(*(plot or []))
    limits = _pair(bounds, "--range", float)
    named = None if columns is None else _pair(columns, "--columns", str.strip)
    read = [curve_files.read(path, columns=named, tag=tag, race=race, entry=entry) for path in curves]
    every = [curve for each in read for curve in each.curves]
    scores = plans.score_range(*limits, lower_is_better, every, target)
    for path, each in zip(curves, read, strict=True):
        for curve in each.curves:
            plans.check(curve, scores, str(path))
    found = plans.plan(every, target, horizon=horizon, scores=scores, metric=read[0].metric, unit=read[0].unit)
    _out().print(found.sentence(), highlight=False, markup=False, soft_wrap=True)
    for path in plot or []:
        plans.draw(found, path)
        _out().print(f"figure: {path}", style="dim", highlight=False)


def _pair(text: str, option: str, of: Callable[[str], Any]) -> tuple[Any, Any]:
    """Two things with a comma between."""
    try:
        first, second = text.split(",")
        return of(first), of(second)
    except ValueError:
        raise FewerError(f"{option} takes two values with a comma between; given {text!r}") from None


@app.command()
def select(
    pool: Annotated[Path | None, typer.Argument(help="CSV, Parquet, NPZ or NPY of features or probabilities.")] = None,
    method: Annotated[str | None, typer.Option("--method", "-m", help="How to choose: margin, pcoreset …")] = None,
    keep: Annotated[int, typer.Option("--keep", "-k", help="How many rows.")] = 100,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write them.")] = Path("chosen.csv"),
    features: Annotated[str | None, typer.Option("--features", help='Feature columns, "f_*,age".')] = None,
    probabilities: Annotated[str | None, typer.Option("--probabilities", help='Class probabilities, "p_*".')] = None,
    label: Annotated[str, typer.Option("--label", help="The column of labels, blank where unknown.")] = "label",
    seed: Annotated[int, typer.Option("--seed", help="For whatever is random.")] = 0,
    state: Annotated[Path | None, typer.Option("--state", help="Remembers the rounds of an annotation.")] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="The last table, with its labels filled in.")] = None,
) -> None:
    """Choose the rows of your own pool to label or keep, once or round by round."""
    from fewer.labels.selection import select as choose

    _writable(output, state)
    made = choose(
        pool,
        method,
        keep,
        output,
        features=features,
        probabilities=probabilities,
        label=label,
        seed=seed,
        state=state,
        labels=labels,
    )
    out = _out()
    out.print(f"{len(made.rows)} of {made.pool} rows in {output}, {made.by}", highlight=False, markup=False)
    if state is not None:
        out.print(
            f"{made.labelled} rows have labels, {made.left} are left. Fill in the column {label!r}, then: "
            f"fewer select --state {state} --labels {output} --keep {keep} -o {output.with_stem(output.stem + '-next')}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


# --- demonstrations ----------------------------------------------------------------------------

demos = typer.Typer(no_args_is_help=True, help="Look at demonstrations.")
app.add_typer(demos, name="demos")


@demos.callback()
def _demos() -> None:
    pass


@demos.command("quality")
def demos_quality(
    data: Annotated[
        str, typer.Argument(help="NPZ, HDF5, a folder of LeRobot or Minari, or the id of a Minari data set.")
    ],
    other: Annotated[str | None, typer.Option("--other", help="Another set of the same task, to compare with.")] = None,
    observations: Annotated[
        list[str] | None, typer.Option("--observation", help="Which part of an observation to take; repeat it.")
    ] = None,
    subset: Annotated[str | None, typer.Option("--subset", help="Of an HDF5 file: the name of a mask.")] = None,
    by: Annotated[str, typer.Option("--by", help="What episodes are ranked by.")] = "action variance",
    eps: Annotated[float | None, typer.Option("--eps", help="How near is near, in standardised units.")] = None,
    cells: Annotated[
        int | None, typer.Option("--cells", help="Compare within so many cells of states instead.")
    ] = None,
    divergence: Annotated[
        bool, typer.Option("--divergence", help="Also clone one half and measure the other, which takes longer.")
    ] = False,
    show: Annotated[int, typer.Option("--show", min=1, help="How many episodes to list.")] = 10,
    keep: Annotated[float | None, typer.Option("--keep", help="Share of the episodes to write to --output.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write them.")] = Path("kept.npz"),
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a figure (png, svg, pdf).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Report how good demonstrations are to imitate: their measures, the worst episodes, and what to drop."""
    import json

    from fewer.demos import BehaviourCloning, load, quality_report, write_npz

    _writable(plot, output if keep is not None else None)
    given = load(data, observations=observations, subset=subset)
    second = None if other is None else load(other, observations=observations, subset=subset)
    imitator = BehaviourCloning() if divergence else None
    report = quality_report(given, second, eps=eps, cells=cells, imitator=imitator)
    chosen = None if keep is None else report.keep(keep, by)
    # ranked before anything is printed, so that an unknown measure is said first
    print(json.dumps(report.to_dict(), indent=1) if as_json else f"{given.summary()}\n\n{report.text(by, show)}")
    if chosen is not None:
        write_npz(output, given.keep(chosen))
        _err().print(f"{len(chosen)} of {len(given)} episodes in {output}, the best by {by}", highlight=False)
    if plot is not None:
        report.plot(plot, by)
        _err().print(f"figure: {plot}", style="dim", highlight=False)


# --- claims ------------------------------------------------------------------------------------


@app.command()
def claim(
    papers: Annotated[list[str] | None, typer.Argument(help="Papers whose claims to measure.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All papers that work.")] = False,
    seeds: Seeds = None,
    first_seed: FirstSeed = 0,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="A small form that checks the machinery, not the claim.")
    ] = False,
    save: Annotated[bool, typer.Option("--save", help="Write the result for the board.")] = False,
    results: Annotated[Path, typer.Option("--results", help="Folder of the results.")] = Path("results/claims"),
    workers: Workers = None,
) -> None:
    """Re-measure what papers claim, here and now.  Nothing is read from earlier results."""
    from fewer import claim as claims
    from fewer import search

    if bool(papers) == every:
        raise FewerError("name the papers whose claims to measure, or say --all")
    if save and tiny:
        raise FewerError("--tiny checks the machinery and has no verdict to save; leave out one of --tiny and --save")
    if save:
        _writable(results / "x.json")
    slugs = [paper.slug for paper in search.listing(state="works")] if every else list(papers or [])
    for slug in slugs:
        result = claims.measure_paper(slug, seeds, first_seed, tiny=tiny, workers=workers, console=_err())
        _print_result(result)
        if save:
            _out().print(f"saved: {claims.save(result, results)}", style="dim", highlight=False)


def _print_result(result: dict[str, Any]) -> None:
    say = functools.partial(_out().print, highlight=False, markup=False, soft_wrap=True)
    for each in result["claims"]:
        say(f"\n{result['paper']}: {each['says']}", style="bold")
        for condition in each["conditions"]:
            numbers = ""
            if condition["estimate"] is not None:
                numbers = f"  {condition['estimate']:.4g} [{condition['low']:.4g}, {condition['high']:.4g}]"
            say(f"  {condition['verdict']:>13}  {condition['text']}{numbers}")
        seeds = f"{len(each['seeds'])} seeds from {each['seeds'][0]}"
        small = " (tiny: the machinery runs; this is no verdict)" if each["tiny"] else ""
        say(f"  verdict: {each['verdict']}{small}; {seeds}, {each['seconds']:.0f} s")


@app.command("claims")
def board(
    html: Annotated[Path | None, typer.Option("--html", help="Write the board as a web site into this folder.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the board as Markdown.")] = None,
    results: Annotated[Path | None, typer.Option("--results", help="Folder of the results.")] = None,
) -> None:
    """Show the board of all claims: what holds, what does not, what is unclear or planned."""
    from fewer import board as boards
    from fewer import catalogue
    from fewer.claim import load_results
    from fewer.core.files import write_atomically

    _writable(markdown)
    papers, found = catalogue.papers(), load_results(results or default_results())
    if html is None and markdown is None:
        _out().print(boards.as_text(papers, found))
    if markdown is not None:
        write_atomically(markdown, boards.as_markdown(papers, found).encode())
        _out().print(f"board: {markdown}", style="dim", highlight=False)
    if html is not None:
        boards.write_site(html, papers, found)
        _out().print(f"board: {html / 'index.html'}", style="dim", highlight=False)


def default_results() -> Path:
    """The results of the folder one stands in, else those that came with the source."""
    here = Path("results/claims")
    return here if here.is_dir() else Path(__file__).parents[2] / "results" / "claims"


# --- output ------------------------------------------------------------------------------------


def _out() -> Console:
    from rich.console import Console

    return Console()


def _err() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _print_papers(papers: list[Paper]) -> None:
    from rich.table import Table

    out = _out()
    if not out.is_terminal:  # one paper a line, for grep and cut
        for paper in papers:
            print(f"{paper.slug}\t{paper.short_of}\t{paper.state}\t{paper.idea}")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("paper", style="bold", no_wrap=True)
    table.add_column("short of")
    table.add_column("state")
    table.add_column("idea", ratio=1)
    for paper in papers:
        table.add_row(paper.slug, paper.short_of, paper.state, paper.idea)
    out.print(table)


if __name__ == "__main__":
    main()
