from __future__ import annotations

import numpy as np

from fewer.incontext.real_curves import DATA, MODELS, against_epochs, against_rows


def test_curves_against_rows():
    curves = list(against_rows(0, points=4))
    assert [curve.name for curve in curves] == [f"{model} on {data}, rows" for data in DATA for model in MODELS]
    for curve in curves:
        assert (np.diff(curve.spent) == curve.spent[0]).all()
        assert ((curve.scores >= 0) & (curve.scores <= 1)).all()
    # models learn: with four times the rows nearly all are at least as good
    assert np.mean([curve.scores[-1] >= curve.scores[0] - 0.02 for curve in curves]) > 0.8


def test_curves_against_epochs():
    first, again, other = (list(against_epochs(seed, 3, epochs=4, rows=100)) for seed in (0, 0, 1))
    for one, two in zip(first, again, strict=True):
        assert one.name == two.name
        np.testing.assert_array_equal(one.scores, two.scores)
        assert one.spent.tolist() == [1, 2, 3, 4]
    assert [curve.name for curve in first] != [curve.name for curve in other]
