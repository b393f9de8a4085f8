from __future__ import annotations

import inspect

import pytest

from fewer import catalogue, compose
from fewer.control.loop import FixedRatio, OffPolicy
from fewer.core.errors import FewerError
from fewer.core.loop import Loop
from fewer.data.loop import Supervised
from fewer.labels.learners import Network
from fewer.labels.loop import ActiveLearning
from fewer.labels.queries import KCentre, Margin, Random
from fewer.models.optimisers import SGD
from fewer.nets.rows import LearnFromRows


def test_fillings_go_into_their_slots_and_the_rest_keeps_the_baseline():
    made = compose.loop("k-centre(metric='cosine') + mlp(steps=7)")
    assert isinstance(made, ActiveLearning)
    assert made.query == KCentre("cosine")
    assert isinstance(made.learner, Network)
    assert made.learner.steps == 7
    assert made.pseudo is None


def test_a_loop_is_named_to_set_its_numbers():
    made = compose.loop("margin + active-learning(per_round=3, balanced=True)")
    assert (made.query, made.per_round, made.balanced) == (Margin(), 3, True)
    assert compose.loop("active-learning").query == Random()
    assert isinstance(compose.loop("supervised(epochs=3)"), Supervised)


def test_the_order_does_not_matter():
    assert compose.loop("mlp + margin") == compose.loop("margin + mlp")


@pytest.mark.parametrize("name", [name for kind in ("loop", "filling") for name in catalogue.parts(kind)])
def test_every_part_composes_by_its_bare_name(name):
    part = catalogue.parts("loop").get(name) or catalogue.parts("filling")[name]
    needed = [
        each.name
        for each in inspect.signature(catalogue.resolve(part.make)).parameters.values()
        if each.default is inspect.Parameter.empty and each.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    if needed:  # such as the folder of a model
        with pytest.raises(FewerError, match=rf"{name} takes \({needed[0]}"):
            compose.loop(name)
        return
    made = compose.loop(name)
    assert isinstance(made, Loop)
    assert type(made) is catalogue.resolve((*part.loops, part.make)[0])
    assert all(getattr(made, slot) is not None for slot in part.slots)


@pytest.mark.parametrize("slug", [slug for slug, paper in catalogue.papers().items() if paper.loop])
def test_every_paper_of_a_loop_composes(slug):
    paper = catalogue.papers()[slug]
    assert type(compose.loop(slug)) is catalogue.resolve(paper.loops[0])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("margin + k-centre", "margin and k-centre both fill the slot query of active-learning; keep one of them"),
        ("margin + margin", "margin and margin both fill the slot query"),
        ("margn", r"unknown name 'margn'; did you mean margin"),
        ("margin + sgd", r"different loops and cannot be joined: margin \(active-learning\), sgd \(supervised or"),
        ("active-learning + supervised", "different loops"),
        ("active-learning + active-learning", "the loop active-learning is named twice"),
        ("margin(x=1)", r"margin\(x=1\) does not fit; margin takes \(\)"),
        ("mlp(1, 2, 3, 4, 5)", r"mlp takes \(hidden=\(128, 64\), dropout=0.0"),
        ("mlp(hidden=3)", r"mlp\(hidden=3\): "),
        ("active-learning(query=3)", "active-learning cannot be given query; it takes balanced, growth, initial"),
        ("active-learning(3)", "active-learning cannot be given 3"),
        ("active-learning(initial=0)", "initial and per_round must be at least 1"),
        ("active-learning(initial='a')", "initial is 'a'; give a value like 10"),
        ("spr", "spr is planned and not there yet"),
    ],
)
def test_what_cannot_be_composed_is_one_clear_line(spec, message):
    with pytest.raises(FewerError, match=message):
        compose.loop(spec)


def test_a_part_of_several_loops_follows_the_others(monkeypatch):
    parts = dict(catalogue.parts("filling"))
    parts["anywhere"] = catalogue.Part(
        "anywhere",
        "filling",
        "models",
        "fewer.models.optimisers:SGD",
        "for a test",
        ("fewer.labels.loop:ActiveLearning", "fewer.data.loop:Supervised"),
        "optimiser",
    )
    real = catalogue.parts
    monkeypatch.setattr(catalogue, "parts", lambda kind: parts if kind == "filling" else real(kind))
    for spec in ("anywhere(lr=0.5) + mixup", "mixup + anywhere(lr=0.5)"):
        made = compose.loop(spec)
        assert isinstance(made, Supervised)
        assert made.optimiser == SGD(lr=0.5)
    with pytest.raises(FewerError, match=r"anywhere \(active-learning or supervised\), mixup \(supervised\), margin"):
        compose.loop("anywhere + mixup + margin")


def test_a_name_of_two_rooms_follows_the_others_and_alone_means_the_one_without_a_room():
    assert type(compose.loop("mlp")) is ActiveLearning
    for spec in ("nets.mlp", "learn-from-rows(first=64) + mlp", "mlp + learn-from-rows(first=64)"):
        made = compose.loop(spec)
        assert type(made) is LearnFromRows
        assert made.estimator.variant == "mlp"
    assert type(compose.loop("mlp + margin")) is ActiveLearning
    with pytest.raises(FewerError, match=r"joined: mlp \(active-learning or learn-from-rows\), sgd \(supervised or"):
        compose.loop("mlp + sgd")
    with pytest.raises(FewerError, match="mlp and boosting both fill the slot estimator of learn-from-rows"):
        compose.loop("learn-from-rows + mlp + boosting")
    with pytest.raises(FewerError, match=r"unknown name 'labels\.mlp'"):
        compose.loop("labels.mlp")


def test_a_paper_with_a_form_in_another_room_follows_the_others_and_alone_means_the_paper():
    paper, elsewhere = catalogue.papers()["mex"], catalogue.parts("filling")["control.mex"]
    assert type(compose.loop("mex")) is catalogue.resolve(paper.loops[0])
    for spec in ("control.mex", "sac + mex", "mex + sac"):
        made = compose.loop(spec)
        assert type(made) is catalogue.resolve(elsewhere.loops[0])
        assert made.critic_term == catalogue.resolve(elsewhere.make)()
    assert compose.together(["ucbvi", "mex"], compose.task("riverswim")) == ["ucbvi", "mex"]


@pytest.mark.parametrize(
    ("specs", "task", "expected"),
    [
        (["mlp", "boosting"], "digits", ["mlp", "boosting"]),
        (["tabm", "mlp"], "digits", ["tabm", "learn-from-rows + mlp"]),
        (["mlp(lr=0.1)", "nets.boosting"], "digits", ["learn-from-rows + mlp(lr=0.1)", "nets.boosting"]),
        (["mlp", "margin"], "digits", ["mlp", "margin"]),
        (["mlp"], "diabetes", ["learn-from-rows + mlp"]),  # nobody else takes this task
        (["sgd", "mixup"], "digits", ["sgd", "mixup"]),
        (["tabm", "margin", "mlp"], "digits", ["tabm", "margin", "mlp"]),  # nothing in common: the race says so
        (["mlp", "no such name"], "digits", ["mlp", "no such name"]),
        (["mlp", "seta"], "digits", ["mlp", "seta"]),
        ([], "digits", []),
    ],
)
def test_the_entries_of_a_race_decide_together(specs, task, expected):
    assert compose.together(specs, compose.task(task)) == expected
    assert compose.together(expected, compose.task(task)) == expected


def test_every_loop_has_a_name_to_be_decided_by():
    named = {part.make for part in catalogue.parts("loop").values()}
    assert {home for filling in catalogue.fillings().values() for home in filling.loops} <= named


def test_tasks():
    assert compose.task("digits").name == "digits"
    with pytest.raises(FewerError, match="unknown task 'digts'; did you mean digits"):
        compose.task("digts")
    with pytest.raises(FewerError, match=r"an environment of Gymnasium is gym\('Hopper-v5'\)"):
        compose.task("Hopper-v5")
    with pytest.raises(FewerError, match=r"digits takes \("):
        compose.task("digits(nothing=1)")
    with pytest.raises(FewerError, match="one name was expected"):
        compose.task("digits + mnist5k")


def test_a_slot_that_is_left_is_the_baselines_or_anothers():
    alone = compose.loop("serl(ratio=None)")
    assert (alone.ratio, alone.critic.members) == (FixedRatio(), 10)
    assert compose.loop("serl(ratio=None) + fixed-ratio(ratio=3)").ratio == FixedRatio(3)
    assert compose.loop("wsrl(policy=None)").policy == OffPolicy().policy


def test_the_demonstrations_of_a_race_are_named_once():
    plain, own = compose.task("gym(id='Pendulum-v1')"), compose.task("dock-2d(demonstrations=2)")
    specs = ["sac", "serl(demos='x.npz')", "serl + adaptive-rr", "rlpd(ratio=2)", "symmetric('y.npz') + sac"]
    shared = compose.together(specs, plain)
    assert shared == [
        "sac",
        "serl(demos='x.npz')",
        "serl(demos='x.npz') + adaptive-rr",
        "rlpd(demos='x.npz', ratio=2)",
        "symmetric('y.npz') + sac",
    ]
    assert compose.loop(shared[2]).sampler == compose.loop(shared[1]).sampler
    assert compose.together(specs, own) == specs  # it has some
    two = ["serl(demos='x.npz')", "serl(demos='y.npz')", "serl"]
    assert compose.together(two, plain) == two
    assert compose.together(["serl", "sac"], plain) == ["serl", "sac"]
    assert compose.together(["serl(demos='x.npz')", "no-such-name", "serl(nothing=1)"], plain)[1] == "no-such-name"
