"""The arms of a measure on labels that become true."""

from __future__ import annotations

from fewer.control.drifting_labels import measure_drift


def test_the_arms_of_the_drift_differ_in_updates_alone():
    measured = measure_drift(0, tiny=True)
    assert measured["low"]["updates"] == 3 * 2
    assert measured["high"]["updates"] == measured["high, shifted images"]["updates"] == 3 * 4
    assert 6 <= measured["adaptive"]["updates"] <= 12
    assert all(0 < each["active units"] < 1 for each in measured.values())
