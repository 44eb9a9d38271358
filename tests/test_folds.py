"""Folds: who stays together, what is spread, what is chosen on them, and a cross-validation from end to end."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medseg3d import Predictor, read_volume
from medseg3d.checks import ConfigError
from medseg3d.inference.folder import predict_folder
from medseg3d.inference.model import load_model
from medseg3d.io import find_cases
from medseg3d.postprocessing import Cleaning
from medseg3d.training.crossval import cross_validate
from medseg3d.training.folds import assign_folds, groups_of, traits_of, warnings_about
from medseg3d.training.rules import choose_rules, mask_dice, piece_dice
from tests.training_helpers import SETTINGS, ball_task, write_balls

TASK = ball_task()


def test_groups_stay_together_and_folds_are_even() -> None:
    groups = {f"case_{i:02}": f"patient {i // 2}" for i in range(40)}
    folds = assign_folds(groups, dict.fromkeys(groups, ("shell",)), 5)
    assert sorted(folds) == sorted(groups)
    assert Counter(folds.values()) == dict.fromkeys(range(1, 6), 8)
    assert all(len({folds[c] for c in groups if groups[c] == g}) == 1 for g in groups.values())


def test_rare_labels_are_spread() -> None:
    groups = {f"case_{i:02}": f"{i}" for i in range(50)}
    traits = {name: ("shell", "core") if i < 10 else ("shell",) for i, name in enumerate(groups)}
    folds = assign_folds(groups, traits, 5)
    rare = Counter(folds[name] for name, found in traits.items() if "core" in found)
    assert rare == dict.fromkeys(range(1, 6), 2)
    assert set(Counter(folds.values()).values()) == {10}


def test_folds_follow_names_alone() -> None:
    groups = {f"case_{i:02}": f"{i}" for i in range(23)}
    traits = dict.fromkeys(groups, ("shell",))
    folds = assign_folds(groups, traits, 4)
    assert assign_folds(dict(reversed(groups.items())), traits, 4) == folds
    assert assign_folds(groups, traits, 4, seed=1) != folds
    sizes = Counter(folds.values())
    assert max(sizes.values()) - min(sizes.values()) <= 1


def test_one_large_group_does_not_leave_a_fold_empty() -> None:
    groups = {f"case_{i:02}": "hospital" if i < 30 else f"{i}" for i in range(34)}
    folds = assign_folds(groups, dict.fromkeys(groups, ("shell",)), 5)
    assert set(folds.values()) == {1, 2, 3, 4, 5}
    assert len({folds[n] for n, g in groups.items() if g == "hospital"}) == 1


@pytest.mark.parametrize(("cases", "folds", "message"), [(3, 5, "at most 3"), (1, 2, "add data"), (3, 1, "at least 2")])
def test_folds_that_cannot_be(cases: int, folds: int, message: str) -> None:
    groups = {f"case_{i}": f"{i}" for i in range(cases)}
    with pytest.raises(ConfigError, match=message):
        assign_folds(groups, dict.fromkeys(groups, ()), folds)


def test_traits_of_real_label_maps(tmp_path: Path) -> None:
    dataset = find_cases(write_balls(tmp_path, 3), TASK, labels=True)
    traits = traits_of(dataset, TASK)
    assert all(found[:2] == ("shell", "core") for found in traits.values())
    assert sorted(found[2] for found in traits.values()) == ["large", "middle", "small"]
    assert groups_of(dataset.cases) == {f"ball_{i}": f"ball_{i}" for i in range(3)}
    with pytest.raises(ConfigError, match="ball_2"):
        groups_of(dataset.cases, {"ball_0": "a", "ball_1": "b"})


def test_a_class_absent_from_a_fold_is_said() -> None:
    traits = {"a": ("shell", "core"), "b": ("shell", "core"), "c": ("shell",), "d": ("shell",)}
    words = warnings_about({"a": 1, "b": 1, "c": 2, "d": 2}, traits, TASK)
    assert len(words) == 1
    assert "all cases with core are in fold 1" in words[0]
    assert warnings_about({"a": 1, "b": 2, "c": 1, "d": 2}, traits, TASK) == []
    assert "no case has core" in warnings_about({"c": 1, "d": 2}, {k: traits[k] for k in "cd"}, TASK)[0]


def test_dice_of_pieces_by_hand() -> None:
    reference = np.zeros((1, 10), bool)
    reference[0, :4] = True
    prediction = np.zeros((1, 10), bool)
    prediction[0, 1:4] = True  # three voxels that hit
    prediction[0, 6:8] = True  # two that do not
    found = piece_dice(reference, prediction, 1.0, [Cleaning(), Cleaning(largest=True), Cleaning(min_ml=4)])
    assert list(found.values()) == pytest.approx([2 * 3 / 9, 2 * 3 / 7, 0])
    assert found[Cleaning()] == mask_dice(reference, prediction)
    empty = np.zeros_like(reference)
    assert piece_dice(empty, empty, 1.0, [Cleaning()]) == {Cleaning(): 1.0}


def maps(stray: bool, hole: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """A reference box, and a prediction with a stray voxel or a hole; voxels of 0.001 ml."""
    reference = np.zeros((9, 9, 9), np.uint8)
    reference[2:7, 2:7, 2:7] = 1
    prediction = reference.copy()
    if stray:
        prediction[0, 0, 0] = 1
        prediction[8, 8, 8] = 1
        prediction[8, 0, 8] = 1
    if hole:
        prediction[4, 4, 4] = 0
    return reference, prediction, 0.001


def test_rules_are_chosen_where_they_help_and_harm_no_fold() -> None:
    folds = {f"{i}": i % 2 + 1 for i in range(8)}
    strays = choose_rules({name: lambda: maps(True, False) for name in folds}, folds, TASK)
    assert strays["shell"].rule.largest or strays["shell"].rule.min_ml > 0
    assert strays["shell"].after == pytest.approx(1)
    assert strays["shell"].before == pytest.approx(250 / 253)
    assert not strays["core"].rule
    holes = choose_rules({name: lambda: maps(False, True) for name in folds}, folds, TASK)
    assert holes["shell"].rule == Cleaning(fill_holes=True)
    nothing = choose_rules({name: lambda: maps(False, False) for name in folds}, folds, TASK)
    assert not nothing["shell"].rule

    def two_parts() -> tuple[np.ndarray, np.ndarray, float]:
        reference = np.zeros((9, 9, 9), np.uint8)
        reference[:3, :3, :3] = reference[6:, 6:, 6:] = 1
        return reference, reference.copy(), 1.0

    mixed = {name: (two_parts if fold == 1 else lambda: maps(True, False)) for name, fold in folds.items()}
    rule = choose_rules(mixed, folds, TASK)["shell"].rule
    assert not rule.largest, "the largest piece alone would cost the first fold half of what is there"


def test_a_cross_validation_from_end_to_end(tmp_path: Path) -> None:
    data, out = write_balls(tmp_path / "data", 5), tmp_path / "cv"
    table = tmp_path / "sites.csv"
    table.write_text("case,site\n" + "".join(f"ball_{i},{'ab'[i % 2]}{i // 4}\n" for i in range(5)))
    options = {"folds": 2, "group_by": "site", "group_csv": table, "overrides": SETTINGS, "epochs": 1}
    half = cross_validate(TASK, data, out, fold=2, **options)
    assert half.open == (1,)
    assert half.evaluation is None
    trained = (out / "fold_2" / "models" / "last.pt").stat().st_mtime_ns
    whole = cross_validate(TASK, data, out, **options)
    assert (out / "fold_2" / "models" / "last.pt").stat().st_mtime_ns == trained, "what is finished is not done again"
    assert whole.open == ()
    assert whole.evaluation is not None
    assert {row["case"] for row in whole.evaluation.rows} == {f"ball_{i}" for i in range(5)}
    assert set(whole.evaluation.summary["by"]["groups"]) == {"1", "2"}
    assert {p.name for p in out.iterdir()} >= {
        "folds.json",
        "folds.csv",
        "predictions",
        "per_case.csv",
        "summary.json",
        "cross_validation.json",
    }
    rules = {name: chosen.rule for name, chosen in whole.rules.items() if chosen.rule}
    assert load_model(out / "fold_1").postprocessing == rules
    for fold in (1, 2):
        predictor = Predictor.from_bundle(out / f"fold_{fold}", device="cpu")
        files = list((out / f"fold_{fold}" / "validation").glob("*.nii.gz"))
        again = predictor(read_volume(data / "images" / files[0].name))
        kept = read_volume(out / "predictions" / files[0].name, labels=True)
        assert (again.data == kept.data).all(), "predictions of the cross-validation are what predict gives"
    with pytest.raises(ConfigError, match="begun with 2 folds"):
        cross_validate(TASK, data, out, **{**options, "folds": 3})
    with pytest.raises(ConfigError, match="from 1 to 2"):
        cross_validate(TASK, data, out, fold=3, **options)


CT = ball_task(intensity="ct")


def statistics_of(run: Path) -> list[dict[str, float]]:
    return json.loads((run / "configs" / "metadata.json").read_text())["medseg3d"]["preprocessing"]["statistics"]


def test_folds_of_a_ct_task_are_an_ensemble_wherever_they_are_trained(tmp_path: Path) -> None:
    data, out = write_balls(tmp_path / "data", 4), tmp_path / "cv"
    options = {"folds": 2, "overrides": SETTINGS, "epochs": 1}
    whole = cross_validate(CT, data, out, **options)
    assert whole.ensemble
    images = [read_volume(data / "images" / f"ball_{i}.nii.gz").data for i in range(4)]
    labels = [read_volume(data / "labels" / f"ball_{i}.nii.gz", labels=True).data for i in range(4)]
    values = np.concatenate([image[label > 0] for image, label in zip(images, labels, strict=True)]).astype(float)
    (found,) = statistics_of(out / "fold_1")
    low, high = np.percentile(values, (0.5, 99.5))
    assert (found["low"], found["high"]) == (low, high)
    assert (found["mean"], found["std"]) == (pytest.approx(values.mean()), pytest.approx(values.std()))
    assert statistics_of(out / "fold_2") == [found]
    elsewhere = cross_validate(CT, data, tmp_path / "elsewhere", fold=2, **options)
    assert statistics_of(elsewhere.runs[1]) == [found], "another machine, another folder: the same numbers"
    together = [out / "fold_1", elsewhere.runs[1]]
    result = predict_folder(together, data / "images", tmp_path / "predicted", device="cpu")
    assert sorted(result.done) == [f"ball_{i}" for i in range(4)]


def test_folds_that_were_begun_with_statistics_of_their_own_go_on_with_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, out = write_balls(tmp_path / "data", 4), tmp_path / "cv"
    options = {"folds": 2, "overrides": SETTINGS, "epochs": 1}
    cross_validate(CT, data, out, fold=1, **options)
    (out / "intensities.json").unlink()
    mean = str(statistics_of(out / "fold_1")[0]["mean"])
    for name in ("metadata.json", "train.yaml"):  # as if begun by a version that looked at the training cases alone
        file = out / "fold_1" / "configs" / name
        assert mean in file.read_text()
        file.write_text(file.read_text().replace(mean, "200.5"))
    (out / "fold_1" / "validation" / "summary.json").unlink()
    longer = {**options, "epochs": 2}
    whole = cross_validate(CT, data, out, **longer)
    assert (out / "fold_1" / "metrics.csv").read_text().count("\n") == 3
    assert statistics_of(out / "fold_1")[0]["mean"] == 200.5
    assert not whole.ensemble
    caplog.clear()
    cross_validate(CT, data, out, **longer)
    assert "no ensemble" in caplog.text
    content = json.loads((out / "intensities.json").read_text())
    (out / "intensities.json").write_text(json.dumps({**content, "channels": ["PET"]}))
    (out / "fold_2" / "models" / "last.pt").unlink()
    (out / "fold_2" / "validation" / "summary.json").unlink()
    with pytest.raises(ConfigError, match="other data, channels or labels"):
        cross_validate(CT, data, out, **longer)
