"""Training adapters: the encoder stays, CSV and arrays give the same, labels put aside choose the best, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.adapt.adapters import encoder

from fewer.adapt.adapted import Adapted
from fewer.adapt.adapter_training import fit_rows, rows_for, train_adapters
from fewer.adapt.best_so_far import BestSoFar
from fewer.adapt.bottleneck_adapter import Bottleneck
from fewer.adapt.loop import Adaptation, LinearHead
from fewer.core.errors import FewerError
from fewer.models.optimisers import AdamW

TEXTS = ["a b", "a c", "d b", "d c", "a e", "d e", "a f", "d f"] * 4
LABELS = ["one" if text[0] == "a" else "two" for text in TEXTS]


def test_the_encoder_stays_and_what_is_trained_fits_it():
    model = encoder().train().requires_grad_(True)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    made = train_adapters(model, {"first": (TEXTS, LABELS), "end": (TEXTS, [t[-1] for t in TEXTS])},
                          reduction=4, lr=1e-2, epochs=2)  # fmt: skip
    assert [(each.task, each.width, each.hidden, len(each.layers)) for each in made.values()] == [
        ("first", 16, 4, 2), ("end", 16, 4, 2)
    ]  # fmt: skip
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert model.training
    assert all(each.requires_grad for each in model.parameters())
    assert made["first"].layers[0]["down.bias"].any()
    again = train_adapters(encoder(), {"first": (TEXTS, LABELS)}, reduction=4, lr=1e-2, epochs=2)
    assert repr(again["first"]) == repr(made["first"])


def test_a_csv_file_is_its_rows(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("label,text\n" + "\n".join(f"{label},{text}" for text, label in zip(TEXTS, LABELS, strict=True)))
    settings = {"reduction": 4, "epochs": 1}
    one = train_adapters(encoder(), {"t": file}, **settings)
    other = train_adapters(encoder(), {"t": (TEXTS, LABELS)}, **settings)
    tokens = encoder().tokens(TEXTS)
    third = train_adapters(encoder(), {"t": (tokens.numpy(), np.array(LABELS))}, **settings)
    assert repr(one) == repr(other) == repr(third)


def test_an_adapter_learns_what_it_is_asked():
    model, way = encoder(), Bottleneck(4, lr=1e-2)
    loop = Adaptation(adapter=way, optimiser=AdamW(1e-2, 0.0), points=1)
    adapted, classes = fit_rows(loop, model, rows_for(model, TEXTS, "t"), LABELS, 0, "t", 60)
    assert classes.tolist() == ["one", "two"]
    assert np.mean(classes[adapted.predict(model.tokens(TEXTS))] == LABELS) == 1.0


def linear(width=2, classes=2):
    from fewer.adapt.loop import _Features

    body = torch.nn.Identity()
    body.width = width  # pyright: ignore[reportAttributeAccessIssue]
    return Adapted(_Features(body), LinearHead(torch.nn.Linear(width, classes, bias=False)), None, ("a", "b"))


def test_the_best_is_kept_and_put_back():
    adapted, x, y = linear(), torch.eye(2), torch.tensor([0, 1])
    weight = adapted.head.linear.weight.data
    best = BestSoFar(adapted, x, y, patience=2)
    weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert not best.enough()
    weight.copy_(torch.eye(2))
    assert not best.enough()
    weight.copy_(3 * torch.eye(2))  # as many right, and surer
    assert not best.enough()
    weight.copy_(2 * torch.eye(2))
    assert not best.enough()
    weight.zero_()
    assert best.enough()
    best.restore()
    assert torch.equal(weight, 3 * torch.eye(2))


def test_patience_ends_a_training_and_rows_put_aside_are_not_learned_from():
    model = encoder()
    rows = rows_for(model, TEXTS, "t")
    counted = []
    model.register_forward_pre_hook(lambda module, given: counted.append(len(given[0])))
    loop = Adaptation(adapter=Bottleneck(4, lr=1e-2), optimiser=AdamW(1e-2, 0.0), batch=28, points=1)
    quick = Adaptation(**{**vars(loop), "validation": 0.25, "patience": 1, "optimiser": AdamW(0.0, 0.0),
                          "adapter": Bottleneck(4, lr=1e-12)})  # fmt: skip
    fit_rows(quick, model, rows, LABELS, 0, "t", 50)
    # the bytes of one step are counted, one step of 24 rows an epoch, 8 rows looked at: nothing is ever better
    assert counted == [24, 24, 8, 24, 8]
    whole, _ = fit_rows(loop, encoder(), rows, LABELS, 0, "t", 2)
    assert whole.classes == ("one", "two")


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: train_adapters(encoder(), {}), "there is no task to train one for"),
        (lambda: train_adapters(encoder(), {"t": TEXTS}), r"task t: give \(rows, labels\)"),
        (lambda: train_adapters(encoder(), {"t": (TEXTS, LABELS[:3])}), "task t: 32 rows and 3 labels"),
        (lambda: train_adapters(encoder(), {"t": (TEXTS, ["x"] * 32)}), "all labels are 'x'"),
        (lambda: train_adapters(encoder(), {"t": ("a b", ["x"])}), "a single text was given"),
        (lambda: train_adapters(torch.nn.Linear(2, 2), {"t": (TEXTS, LABELS)}), "a Linear is no encoder"),
        (lambda: rows_for(torch.nn.Linear(2, 2), TEXTS, "t"), "a Linear reads no texts"),
        (lambda: rows_for(encoder(), np.array([[1.0, np.nan]]), "t"), "rows hold NaN"),
        (lambda: train_adapters(encoder(), {"t": "nowhere.csv"}), r"no file at nowhere\.csv"),
        (lambda: Adaptation(validation=1.0), "validation must lie in"),
        (lambda: Adaptation(patience=-1), "patience not be negative"),
        (lambda: fit_rows(Adaptation(validation=0.9), encoder(), encoder().tokens(TEXTS[:3]), LABELS[:3], 0, "t", 1),
         "all 3 labels are set aside"),
    ],
)  # fmt: skip
def test_errors(do, message):
    with pytest.raises(FewerError, match=message):
        do()


@pytest.mark.parametrize(
    ("written", "message"),
    [("text,class\na,b\n", "rows.csv has no column 'label'"), ("text,label\na,b\n,c\n", "has no text in row 2")],
)
def test_files_that_are_refused(tmp_path, written, message):
    (tmp_path / "rows.csv").write_text(written)
    with pytest.raises(FewerError, match=message):
        train_adapters(encoder(), {"t": tmp_path / "rows.csv"})
