"""Learning curves of real models on real data, made on the spot: what the invented ones are to be judged by.

Accuracy on held-out rows against training rows or against epochs, of scikit-learn's models on the data
sets that come with it.  Equal seeds give equal curves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from fewer.core.seeding import derive, generator

DATA: dict[str, Callable[..., Any]] = {
    "digits": load_digits,
    "breast cancer": load_breast_cancer,
    "wine": load_wine,
}

MODELS: dict[str, Callable[[int], Any]] = {
    "logistic": lambda seed: LogisticRegression(max_iter=300),
    "naive Bayes": lambda seed: GaussianNB(var_smoothing=1e-2),
    "neighbours": lambda seed: KNeighborsClassifier(1),
    "tree": lambda seed: DecisionTreeClassifier(random_state=seed),
    "forest": lambda seed: RandomForestClassifier(20, random_state=seed),
    "support vectors": lambda seed: SVC(C=3.0),
}


@dataclass(frozen=True)
class RealCurve:
    """Accuracy at evenly spaced numbers of rows or epochs.

    Parameters
    ----------
    name : str
        Which model on which data.
    spent : int array (points,)
        Rows or epochs; the last is the horizon.
    scores : float array (points,)
        Accuracy on rows held out.
    """

    name: str
    spent: Int[np.ndarray, " points"]
    scores: Float[np.ndarray, " points"]


@dataclass(frozen=True)
class _Split:
    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def _split(data: str, seed: int) -> _Split:
    rows, labels = DATA[data](return_X_y=True)
    parts = train_test_split(rows, labels, test_size=0.4, random_state=derive(seed, data) % 2**32, stratify=labels)
    x, test_x, y, test_y = map(np.asarray, parts)
    scaler = StandardScaler().fit(x)
    return _Split(np.asarray(scaler.transform(x)), y, np.asarray(scaler.transform(test_x)), test_y)


def against_rows(seed: int, points: int = 25) -> Iterator[RealCurve]:
    """One curve for each model and data set: 18."""
    for data in DATA:
        split = _split(data, seed)
        horizon = min(len(split.y), 500) // points * points
        sizes = np.arange(1, points + 1) * (horizon // points)
        for name, make in MODELS.items():
            scores = []
            for size in sizes:
                x, y = split.x[:size], split.y[:size]
                if len(np.unique(y)) == 1:  # nothing to learn yet: the one class is said of all
                    scores.append(float((split.test_y == y[0]).mean()))
                else:
                    scores.append(float(make(seed).fit(x, y).score(split.test_x, split.test_y)))
            yield RealCurve(f"{name} on {data}, rows", sizes, np.array(scores))


def against_epochs(seed: int, curves: int, epochs: int = 50, rows: int = 400) -> Iterator[RealCurve]:
    """Networks and linear models trained by stochastic gradient descent on digits, their settings drawn at random.

    Learning rates are drawn between 1e-4 and 0.3 on a logarithmic scale, and the width of the hidden layer
    from none to 64.

    Parameters
    ----------
    seed : int
        Of the split and the settings.
    curves : int
        How many.
    epochs : int, default 50
        Of each.
    rows : int, default 400
        To train on.
    """
    split, rng = _split("digits", seed), generator(seed, "settings")
    x, y, classes = split.x[:rows], split.y[:rows], np.unique(split.y)
    for index in range(curves):
        rate = float(10 ** rng.uniform(-4, np.log10(0.3)))
        width = int(rng.choice([0, 4, 8, 16, 32, 64]))
        if width:
            batch: Any = 32  # declared as a text only
            model: Any = MLPClassifier(
                (width,),
                solver="sgd",
                learning_rate_init=rate,
                batch_size=batch,
                random_state=derive(seed, index) % 2**32,
            )
        else:
            model = SGDClassifier(
                loss="log_loss", learning_rate="constant", eta0=rate, random_state=derive(seed, index) % 2**32
            )
        scores = []
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            for _ in range(epochs):
                order = rng.permutation(len(y))
                model.partial_fit(x[order], y[order], classes=classes)
                scores.append(float(model.score(split.test_x, split.test_y)))
        kind = f"network of width {width}" if width else "linear model"
        yield RealCurve(f"{kind}, rate {rate:.2g}, epochs", np.arange(1, epochs + 1), np.array(scores))
