from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fewer import compose
from fewer.core.errors import FewerError
from fewer.tasks.arrays import images, npz
from fewer.tasks.representation import Representation

X = np.arange(24, dtype=np.float64).reshape(8, 3)
Y = np.arange(8) % 2


@pytest.fixture
def saved(tmp_path: Path):
    def save(**arrays) -> str:
        np.savez(tmp_path / "mine.npz", **{"x": X, "y": Y, **arrays})
        return str(tmp_path / "mine.npz")

    return save


class TestNpz:
    def test_numbers_texts_and_bytes(self, saved):
        task = npz(saved())
        assert np.array_equal(task.x, X)
        assert task.x.dtype == np.float32
        assert (task.classes, task.y.tolist(), task.name) == (("0", "1"), Y.tolist(), "mine.npz")
        pixels = np.arange(8 * 12, dtype=np.uint8).reshape(8, 1, 3, 4)
        assert np.allclose(npz(saved(x=pixels)).x, pixels / 255)
        texts = npz(saved(x=np.array([f"text {i}" for i in range(8)])))
        assert texts.x.dtype == object
        assert texts.x[3] == "text 3"

    def test_labels_of_all_kinds(self, saved):
        for y in (Y.astype(bool), Y.astype(float), np.array(["no", "yes"])[Y], np.array([b"no", b"yes"])[Y]):
            assert npz(saved(y=y)).y.tolist() == Y.tolist()
        assert npz(saved(y=np.array([b"no", b"yes"])[Y])).classes == ("no", "yes")

    def test_other_names_a_fixed_test_set_and_helpers(self, saved):
        weak = np.full((8, 2), 0.5)
        path = saved(rows=X + 1, held=X[:4], held_y=1 - Y[:4], w=weak, logits=weak * 9)
        task = npz(path, "rows", test_x="held", test_y="held_y", weak="w", teacher="logits", standardise=True)
        assert np.array_equal(task.x, X + 1)
        assert task.held_out is not None
        assert task.held_out[1].tolist() == (1 - Y[:4]).tolist()
        assert task.weak is not None
        assert task.teacher is not None
        assert task.teacher[0, 0] == 4.5
        assert task.standardise

    @pytest.mark.parametrize(
        ("names", "test"),
        [
            (["a", "b"], ["b", "b"]),
            ([b"a", b"b"], ["b", "b"]),
            (["a", "b"], [b"b", b"b"]),
            ([5, 7], [7.0, 7.0]),
            ([False, True], [1, 1]),
        ],
    )
    def test_test_labels_are_matched_by_name(self, saved, names, test):
        path = saved(y=np.array(names)[Y], tx=X[:2], ty=np.array(test))
        task = npz(path, test_x="tx", test_y="ty")  # the first class need not be in the test set
        assert task.held_out is not None
        assert task.held_out[1].tolist() == [1, 1]

    def test_the_fingerprint_follows_the_data(self, saved):
        before = npz(saved()).fingerprint()
        assert npz(saved()).fingerprint() == before
        assert npz(saved(x=X + 1)).fingerprint() != before
        assert npz(saved(y=1 - Y)).fingerprint() != before
        assert npz(saved(), standardise=True).fingerprint() != before

    @pytest.mark.parametrize(
        ("arrays", "arguments", "message"),
        [
            ({}, {"x": "xx"}, "no array 'xx'; (did you mean x|known: x, y)"),
            ({"y": Y[:5]}, {}, "8 rows but 5 labels"),
            ({"y": Y[:, None]}, {}, r"'y' has shape \(8, 1\); labels are one number or text a row"),
            ({"x": X[:, 0]}, {}, r"'x' is an array of float64 of shape \(8,\); rows are numbers"),
            ({"x": X.astype(complex)}, {}, "'x' is an array of complex128"),
            ({"x": np.array([{}] * 8)}, {}, "cannot be read as arrays .*without objects"),
            ({"x": np.where(X > 3, np.nan, X)}, {}, r"7 rows hold NaN or infinity \(the first is row 1\)"),
            ({"y": np.zeros(8)}, {}, "hold only one"),
            ({"y": X[:, 0] / 7}, {}, "array 'y' holds measurements"),
            ({"y": np.where(Y == 1, np.nan, 0)}, {}, "4 of 8 rows have no label in array 'y'"),
            ({"tx": X}, {"test_x": "tx"}, "needs both test_x= and test_y="),
            ({"tx": X[:, :2], "ty": Y}, {"test_x": "tx", "test_y": "ty"}, r"shape \(2,\), those of 'x' \(3,\)"),
            ({"tx": X[:3], "ty": Y}, {"test_x": "tx", "test_y": "ty"}, "3 rows in 'tx' but 8 labels in 'ty'"),
            ({"tx": X, "ty": np.array(list("abcdefgh"))}, {"test_x": "tx", "test_y": "ty"}, "'ty' holds the label a"),
            ({"tx": X, "ty": Y + 1}, {"test_x": "tx", "test_y": "ty"}, "'ty' holds the label 2, which no row"),
            ({"w": X}, {"weak": "w"}, r"'w' has shape \(8, 3\); weak= needs .*\(8, 2\)"),
            ({"w": np.full((8, 2), "a")}, {"teacher": "w"}, "teacher= needs numbers"),
        ],
    )
    def test_bad_arrays_are_refused_in_one_line(self, saved, arrays, arguments, message):
        with pytest.raises(FewerError, match=f"mine.npz.*{message}") as caught:
            npz(saved(**arrays), **arguments)
        assert "\n" not in str(caught.value)

    def test_bad_files(self, tmp_path, saved):
        with pytest.raises(FewerError, match="no file at"):
            npz(str(tmp_path / "no.npz"))
        np.save(tmp_path / "one.npy", X)
        with pytest.raises(FewerError, match="holds a single array"):
            npz(str(tmp_path / "one.npy"))
        good = Path(saved()).read_bytes()
        for data in (b"", b"nothing", good[:100], good[:-30], good[:200] + b"!" + good[201:]):
            (tmp_path / "bad.npz").write_bytes(data)
            with pytest.raises(FewerError, match=r"bad\.npz") as caught:
                npz(str(tmp_path / "bad.npz"))
            assert "\n" not in str(caught.value)


class TestImages:
    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        pillow = pytest.importorskip("PIL.Image")
        rng = np.random.default_rng(0)
        for name, red in (("dog", 200), ("cat", 50)):
            (tmp_path / "photos" / name / "deeper").mkdir(parents=True)
            for index in range(3):
                pixels = rng.integers(0, 40, (10, 6, 3), dtype=np.uint8)
                pixels[:, :, 0] = red
                where = tmp_path / "photos" / name / ("deeper" if index == 2 else "")
                pillow.fromarray(pixels).save(where / f"{index}.png")
            (tmp_path / "photos" / name / "notes.txt").write_text("no image")
        return tmp_path / "photos"

    def test_sub_folders_are_classes(self, photos):
        task = images(str(photos), size=4)
        assert (task.x.shape, task.x.dtype) == ((6, 3, 4, 4), np.float32)
        assert task.classes == ("cat", "dog")
        assert task.y.tolist() == [0, 0, 0, 1, 1, 1]
        assert np.allclose(task.x[:3, 0], 50 / 255, atol=1e-6)
        assert np.allclose(task.x[3:, 0], 200 / 255, atol=1e-6)
        assert images(str(photos), gray=True).x.shape == (6, 1, 32, 32)

    def test_pixels_come_back_where_nothing_is_scaled(self, tmp_path):
        pillow = pytest.importorskip("PIL.Image")
        pixels = np.random.default_rng(1).integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
        for index in range(4):
            (tmp_path / f"class {index % 2}").mkdir(exist_ok=True)
            pillow.fromarray(pixels[index]).save(tmp_path / f"class {index % 2}" / f"{index}.png")
        found = images(str(tmp_path), size=5).x
        assert np.allclose(found * 255, pixels[[0, 2, 1, 3]].transpose(0, 3, 1, 2), atol=1e-3)

    def test_the_fingerprint_follows_the_images(self, photos):
        before = images(str(photos)).fingerprint()
        assert images(str(photos)).fingerprint() == before
        assert images(str(photos), size=16).fingerprint() != before
        (photos / "cat" / "0.png").write_bytes((photos / "dog" / "0.png").read_bytes())
        assert images(str(photos)).fingerprint() != before

    def test_what_is_refused(self, photos, tmp_path):
        with pytest.raises(FewerError, match="no folder at"):
            images(str(photos / "nowhere"))
        for size in (0, 2.5, True):
            with pytest.raises(FewerError, match="give pixels a side"):
                images(str(photos), size=size)  # pyright: ignore[reportArgumentType]
        (tmp_path / "empty" / "deeper").mkdir(parents=True)
        with pytest.raises(FewerError, match="has no images and no sub-folders with images"):
            images(str(tmp_path / "empty"))
        with pytest.raises(FewerError, match=r"class 'deeper' has one row|at least two classes|hold only one"):
            images(str(photos / "cat"))

    def test_a_folder_without_classes_has_rows_and_no_labels(self, photos):
        task = images(str(photos / "cat" / "deeper"), size=4, test=1)
        assert isinstance(task, Representation)
        assert (task.x.shape, task.labels) == ((1, 3, 4, 4), {})
        assert np.allclose(task.x[:, 0], 50 / 255, atol=1e-6)

    @pytest.mark.parametrize("labelled", [True, False])
    def test_features_are_learned_from_both_kinds_of_folders(self, tmp_path, labelled):
        pillow = pytest.importorskip("PIL.Image")
        rng = np.random.default_rng(0)
        for index in range(40):
            where = tmp_path / f"class {index % 2}" if labelled else tmp_path
            where.mkdir(exist_ok=True)
            pillow.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(where / f"{index}.png")
        task = images(str(tmp_path), size=8)
        specs = compose.together([f"{name} + contrastive(batch=16, points=1)" for name in ("simclr", "dcl")], task)
        for spec in specs:
            (point,) = compose.loop(spec).run(task, 48, 0)
            assert ("knn" in point.extras, "views recognised" in point.extras) == (labelled, not labelled)
            assert 0 <= point.score <= 1
        if not labelled:
            with pytest.raises(FewerError, match=r"runs on a Classification task; .* is a Representation"):
                compose.loop("mixup").check(task, 1000)

    @pytest.mark.parametrize("data", [b"", b"no image", "cut"])
    def test_damaged_images_are_named(self, photos, data):
        file = photos / "dog" / "1.png"
        file.write_bytes(file.read_bytes()[:60] if data == "cut" else data)
        with pytest.raises(FewerError, match=r"dog/1\.png cannot be read") as caught:
            images(str(photos))
        assert "\n" not in str(caught.value)

    def test_sixteen_bits_are_refused(self, photos):
        pillow = pytest.importorskip("PIL.Image")
        pillow.fromarray(np.full((5, 5), 40000, dtype=np.uint16)).save(photos / "dog" / "1.png")
        with pytest.raises(FewerError, match=r"dog/1\.png has pixels of mode I;16; save it with 8 bits"):
            images(str(photos))

    def test_an_enormous_image_is_refused(self, photos, monkeypatch):
        pillow = pytest.importorskip("PIL.Image")
        monkeypatch.setattr(pillow, "MAX_IMAGE_PIXELS", 40)
        with pytest.raises(FewerError, match="cannot be read"):
            images(str(photos))
