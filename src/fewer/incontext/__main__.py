"""Train a network to learn from its prompt, keep its weights, and ask it.

    python -m fewer.incontext train "boolean('conjunction')" -m transformer --budget 128000 -o conjunction.safetensors
    python -m fewer.incontext predict conjunction.safetensors examples.csv
    python -m fewer.incontext train bandit -m "transformer(width=32, heads=1)" --budget 128000 -o bandit.safetensors
    python -m fewer.incontext predict bandit.safetensors pulls.csv

What can be trained on is what ``fewer tasks`` lists for this room, and ``-m`` takes what ``fewer race`` takes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from fewer import compose
from fewer.core import checkpoint as checkpoints
from fewer.core.errors import FewerError
from fewer.incontext import boolean_icl, dpt
from fewer.incontext.boolean_icl import InContextLearner
from fewer.incontext.decisions import Decisions
from fewer.incontext.dpt import DecisionPretrained
from fewer.incontext.function_families import FunctionFamily
from fewer.incontext.loop import LearnToLearn
from fewer.incontext.weights import kind_of

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.command()
def train(
    task: Annotated[str, typer.Argument(help='"boolean(\'parity\')", bandit, "dark-room(size=5)" …')],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the weights.")],
    method: Annotated[str, typer.Option("--method", "-m", help='"lstm(width=64) + adamw(lr=3e-3)".')] = "transformer",
    budget: Annotated[int, typer.Option("--budget", min=1, help="Prompts to train on.")] = 128_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the run.")] = 0,
) -> None:
    """Train and write the weights.  Started again after an interruption, it goes on where it was."""
    family, loop = compose.task(task), compose.loop(method)
    if not isinstance(family, FunctionFamily | Decisions):
        raise FewerError(f"{task} is no family of functions or of worlds; 'fewer tasks' lists those")
    if not isinstance(loop, LearnToLearn):
        raise FewerError(f"{method} names no network that reads prompts; try transformer or lstm")
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    for point in loop.run(family, budget, seed, checkpoint):
        shown = "  ".join(f"{name} {value:.3f}" for name, value in point.extras.items())
        typer.echo(f"{point.spent:>9} prompts  {family.metric} {point.score:.3f}  {shown}")
    network = loop.network.build(family.features, family.outputs, family.length)
    network.load_state_dict(checkpoints.load(checkpoint)["state"]["network"])  # pyright: ignore[reportAttributeAccessIssue]
    kind = InContextLearner if isinstance(family, FunctionFamily) else DecisionPretrained
    kind.from_network(network, loop.network, family).save(output)  # pyright: ignore[reportArgumentType]
    checkpoint.unlink()
    typer.echo(f"weights: {output}")


@app.command()
def predict(
    weights: Annotated[Path, typer.Argument(help="What train wrote.")],
    prompt: Annotated[Path, typer.Argument(help="A CSV file of examples, or of interactions.")],
    target: Annotated[str, typer.Option("--target", help="Column of labels; blank where one is asked for.")] = "y",
    classes: Annotated[str, typer.Option("--classes", help="The negative label and the positive one: no,yes.")] = "",
    query: Annotated[str, typer.Option("--query", help='The state to act in, "0.5 -1"; 1 for a bandit.')] = "1",
) -> None:
    """Say labels of rows from the labelled ones, or the action to take after interactions.

    Examples have a column for each place of a point and one of labels.  Interactions have the columns action and
    reward, and, where there is more than one state, state_0, state_1 … before the action and next_0, next_1 … after it.
    """
    kind = kind_of(weights)
    table = _table(prompt)
    if kind == boolean_icl.KIND:
        _labels(InContextLearner.load(weights), table, target, classes)
    elif kind == dpt.KIND:
        _action(DecisionPretrained.load(weights), table, query)
    else:
        raise FewerError(f"{weights} holds {kind}, which predicts otherwise; see its own command")


def _labels(learner: InContextLearner, table: pd.DataFrame, target: str, classes: str) -> None:
    if target not in table:
        raise FewerError(f"there is no column {target!r}; --target names the one of labels: {', '.join(table.columns)}")
    asked = table[target].isna().to_numpy()
    if not asked.any():
        raise FewerError(f"no row has a blank {target}, so nothing is asked for; add rows without a label")
    x, known = table.drop(columns=target), table[~asked]
    labels = np.asarray(known[target])
    if labels.dtype.kind == "f" and (labels == labels.round()).all():  # blanks made numbers of them
        labels = labels.astype(int)
    both = [each.strip() for each in classes.split(",")] if classes else None
    if both is not None and len(both) != 2:
        raise FewerError(f"--classes is {classes!r}; write the negative label and the positive one, such as no,yes")
    if both is not None:
        labels = labels.astype(str)
    elif len(known) and len(set(labels.tolist())) == 1 and labels[0] not in (-1, 0, 1):
        raise FewerError(f"all labels are {labels[0]}; say what the other one is, such as --classes {labels[0]},other")
    inputs = x[~asked].to_numpy(), labels, x[asked].to_numpy(), both
    said, chances = learner.predict(*inputs), learner.predict_proba(*inputs).max(1)
    for row, label, chance in zip(np.flatnonzero(asked), said, chances, strict=True):
        typer.echo(f"row {row + 1}: {label} ({chance:.3f})")


def _action(agent: DecisionPretrained, table: pd.DataFrame, query: str) -> None:
    count = agent.states_
    columns = {name: [f"{name}_{place}" for place in range(count)] for name in ("state", "next")}
    if count == 1 and "state_0" not in table:
        table = table.assign(state_0=1.0, next_0=1.0)
    named = ["action", "reward", *columns["state"], *columns["next"]]
    missing = [name for name in named if name not in table]
    if missing:
        raise FewerError(f"interactions need the column {missing[0]!r}; there are {', '.join(table.columns)}")
    numbers = pd.DataFrame({name: pd.to_numeric(table[name], errors="coerce") for name in named}, dtype=float)
    allowed = np.isfinite(numbers.to_numpy())
    allowed[:, 0] = numbers["action"].isin(range(agent.actions_))
    for row, name in np.argwhere(~allowed):
        wanted = f"a whole number from 0 to {agent.actions_ - 1}" if named[name] == "action" else "a number"
        raise FewerError(f"row {row + 1}: {named[name]} is {table[named[name]].iloc[row]}; it must be {wanted}")
    if len(table) > agent.context_len_:
        known = f"the last {agent.context_len_} of {len(table)} interactions are read"
        typer.echo(f"note: {known}; the network was trained for no more", err=True)
        numbers = numbers.tail(agent.context_len_)
    agent.context = {
        "states": numbers[columns["state"]].to_numpy(np.float32),
        "actions": numbers["action"].to_numpy(np.int64),
        "next_states": numbers[columns["next"]].to_numpy(np.float32),
        "rewards": numbers["reward"].to_numpy(),
    }
    try:
        state = [float(each) for each in query.replace(",", " ").split()]
    except ValueError:
        raise FewerError(f"--query is {query!r}; write the state's numbers, such as '0.5 -1'") from None
    chances = agent.probabilities(state)
    typer.echo(f"best action: {int(chances.argmax())}")
    for action, chance in enumerate(chances):
        typer.echo(f"action {action}: {chance:.3f}")


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise FewerError(f"cannot read {path}: {error}; give a CSV file with a header") from error


def main() -> None:
    """Run the command; what the user can mend is one line and exit status 2."""
    try:
        app()
    except FewerError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
