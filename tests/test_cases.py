import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from medseg3d import sample_data_folder
from medseg3d.checks import ConfigError, InputError
from medseg3d.io import Case, find_cases, read_image, read_label, split_cases, write_volume
from medseg3d.io.split import subject_of
from medseg3d.task import Task, load_task
from medseg3d.volume import Volume
from tests.shared import real_data

SHAPE = (4, 5, 6)
AFFINE = np.diag([1, 1, 2, 1.0])
LEVEL = {"FLAIR": 10, "T1": 20, "T1Gd": 30, "T2": 40}
"""Value of every voxel of a channel, so that a swapped one shows."""
BRATS, HIPPOCAMPUS, ORGANS = load_task("brats"), load_task("hippocampus"), load_task("organ_ct")


def image(path: Path, *levels: float, affine=AFFINE, shape=SHAPE) -> Path:
    data = np.stack([np.full(shape, level, np.int16) for level in levels])
    write_volume(Volume(data, affine), path)
    return path


def label(path: Path, *values: int, affine=AFFINE, shape=SHAPE) -> Path:
    data = np.zeros(shape, np.uint8)
    data.flat[: len(values)] = values
    write_volume(Volume(data[None], affine), path)
    return path


def index(folder: Path, **entries) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def msd(folder: Path, names=("a", "b"), *, channels=("MRI",), labels=("Anterior", "Posterior"), values=(1, 2)) -> Path:
    for name in names:
        image(folder / f"imagesTr/{name}.nii.gz", *range(10, 10 * len(channels) + 1, 10))
        label(folder / f"labelsTr/{name}.nii.gz", *values)
    return index(
        folder,
        modality={str(i): c for i, c in enumerate(channels)},
        labels={"0": "background"} | {str(i): n for i, n in enumerate(labels, start=1)},
        training=[{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
    )


def brats(folder: Path, cases, tails, *, separator="_", values=(1, 2, 4)) -> Path:
    for case in cases:
        for channel, tail in tails.items():
            image(folder / case / f"{Path(case).name}{separator}{tail}.nii.gz", LEVEL[channel])
        label(folder / case / f"{Path(case).name}{separator}seg.nii.gz", *values)
    return folder


def refusal(code: str, *words: str, root: Path, task: Task, labels: bool = True, **options) -> None:
    with pytest.raises(InputError) as caught:
        find_cases(root, task, labels=labels, **options)
    assert caught.value.finding.code == code, str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.finding.fix


def levels(dataset, task, number=0) -> list[float]:
    volume = read_image(dataset.cases[number], task)
    assert volume.data.dtype == np.float32
    assert volume.data.shape == (task.in_channels, *SHAPE)
    return [float(v) for v in volume.data[:, 0, 0, 0]]


def first_labels(dataset, task, count, number=0) -> list[int]:
    return read_label(dataset.cases[number], dataset, task, None).data.ravel()[:count].tolist()


# MSD ------------------------------------------------------------------------------------------------------------------


def test_msd(tmp_path):
    dataset = find_cases(msd(tmp_path), HIPPOCAMPUS, labels=True)
    assert [c.name for c in dataset.cases] == ["a", "b"]
    assert dataset.channel_names == {"MRI": "MRI"}
    assert dataset.label_values == {1: 1, 2: 2}
    assert dataset.describe().splitlines() == [
        f"2 cases in {tmp_path} (MSD dataset.json)",
        "channels: MRI <- MRI",
        "label values: 1 <- 1 (Anterior), 2 <- 2 (Posterior)",
    ]
    case = dataset.cases[0]
    volume = read_image(case, HIPPOCAMPUS)
    assert read_label(case, dataset, HIPPOCAMPUS, volume.grid).data.dtype == np.uint8


def test_msd_channels_and_labels_in_another_order_are_found_by_name(tmp_path):
    """Channel values say where they come from; label 1 of the files is what the task calls 3."""
    root = msd(
        tmp_path,
        channels=("T2w", "t1gd", "FLAIR", "T1w"),
        labels=("enhancing tumour", "edema", "non-enhancing tumor"),
        values=(1, 2, 3),
    )
    dataset = find_cases(root, BRATS, labels=True)
    assert levels(dataset, BRATS) == [30, 40, 20, 10]  # FLAIR, T1, T1Gd, T2
    assert first_labels(dataset, BRATS, 4) == [3, 1, 2, 0]
    assert dataset.channel_names["FLAIR"] == "FLAIR (channel 2 of the file)"
    assert "label values: 3 <- 1 (enhancing tumour), 1 <- 2 (edema)" in dataset.describe()


def test_labels_by_name_to_number(tmp_path):
    root = msd(tmp_path)
    index(
        root,
        channel_names={"0": "MRI"},
        labels={"background": 0, "posterior": 1, "anterior": 2},
        training=json.loads((root / "dataset.json").read_text())["training"],
    )
    assert first_labels(find_cases(root, HIPPOCAMPUS, labels=True), HIPPOCAMPUS, 2) == [2, 1]


def test_a_list_of_channel_files(tmp_path):
    for i, tail in enumerate(("t1ce", "flair", "t2", "t1")):
        image(tmp_path / f"x_{tail}.nii.gz", i)
    label(tmp_path / "x_lab.nii.gz", 3)
    files = [f"x_{t}.nii.gz" for t in ("t1ce", "flair", "t2", "t1")]
    names = {"edema": 1, "NCR": 2, "ET": 3}
    training = [{"image": files, "label": "x_lab.nii.gz"}]
    index(tmp_path, channel_names=["T1Gd", "FLAIR", "T2", "T1"], labels=names, training=training)
    dataset = find_cases(tmp_path, BRATS, labels=True)
    assert [c.name for c in dataset.cases] == ["x"]
    assert levels(dataset, BRATS) == [1, 3, 0, 2]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"modality": {"0": "CT"}}, "E-CHANNEL-MISSING", ["no channel MRI", "found 'CT'"]),
        ({"modality": {"1": "MRI"}}, "E-DATASET-JSON", ["modality"]),
        ({"modality": {"0": "T1", "1": "MR"}}, "E-CHANNEL-AMBIGUOUS", ["'T1' and 'MR'"]),
        ({"modality": {"0": "T1", "1": "T2"}}, "E-CHANNEL-COUNT", ["1 channels", "names 2"]),
        ({"labels": {"1": "anterior", "2": "amygdala"}}, "E-LABEL-NAME", ["label 2", "'amygdala'", "posterior"]),
        ({"labels": {"1": "anterior"}}, "E-LABEL-NAME", ["no label for value 2", "posterior"]),
        ({"labels": {"background": 3, "anterior": 1, "posterior": 2}}, "E-LABEL-NAME", ["the rule is 0"]),
        ({"labels": {"anterior": "one"}}, "E-DATASET-JSON", ["labels"]),
        ({"training": {"image": "x"}}, "E-DATASET-JSON", ["no list"]),
        ({"training": [{"label": "x"}]}, "E-DATASET-JSON", ["no image"]),
        ({"training": [{"image": "imagesTr/z.nii.gz"}]}, "E-FILE-MISSING", ["z.nii.gz"]),
        ({"training": [{"image": "imagesTr/a.nii.gz"}]}, "E-LABEL-MISSING", ["'a'"]),
        ({"training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/z.nii"}]}, "E-FILE-MISSING", ["z.nii"]),
    ],
)
def test_doubts_in_a_dataset_json_are_errors(tmp_path, change, code, words):
    root = msd(tmp_path)
    index(root, **(json.loads((root / "dataset.json").read_text()) | change))
    refusal(code, *words, root=root, task=HIPPOCAMPUS)


def test_a_case_listed_twice(tmp_path):
    root = msd(tmp_path)
    content = json.loads((root / "dataset.json").read_text())
    content["training"].append(content["training"][0])
    index(root, **content)
    refusal("E-DUPLICATE-CASE", "'a'", root=root, task=HIPPOCAMPUS)


def test_broken_json(tmp_path):
    (tmp_path / "dataset.json").write_text("{")
    refusal("E-DATASET-JSON", "JSON", root=tmp_path, task=HIPPOCAMPUS)


def test_an_unspecific_name_fits_any_task_of_one_channel_but_mri_is_no_ct(tmp_path):
    spleen = load_task("spleen")
    root = msd(tmp_path / "a", channels=("image",), labels=("spleen",), values=(1,))
    assert len(find_cases(root, spleen, labels=True).cases) == 2
    root = msd(tmp_path / "b", channels=("MRI",), labels=("spleen",), values=(1,))
    refusal("E-CHANNEL-MISSING", "needs CT", "'MRI'", root=root, task=spleen)


def test_other_organs_are_background_only_where_the_task_says_so(tmp_path):
    names = ("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "aorta")
    root = msd(tmp_path, channels=("CT",), labels=names, values=(1, 2, 3, 4, 5, 6))
    dataset = find_cases(root, ORGANS, labels=True)
    assert first_labels(dataset, ORGANS, 6) == [2, 4, 3, 0, 1, 5]
    assert "background <- 4 (gallbladder)" in dataset.describe()
    strict = Task.from_dict(ORGANS.as_dict() | {"ids": {}})
    refusal("E-LABEL-NAME", "'gallbladder'", "under 0 if it is background", root=root, task=strict)


# nnU-Net --------------------------------------------------------------------------------------------------------------


def nnunet(folder: Path, labels, *, names=("T1", "T1ce", "T2", "FLAIR"), values=(1, 2, 3)) -> Path:
    """Channels as nnU-Net's BraTS21 has them; every file's value is its channel's level."""
    for case in ("p1", "p2"):
        for i, name in enumerate(names):
            image(folder / f"imagesTr/{case}_{i:04d}.nii.gz", LEVEL[str(BRATS.channel_named(name))])
        label(folder / f"labelsTr/{case}.nii.gz", *values)
    channels = {str(i): n for i, n in enumerate(names)}
    return index(folder, channel_names=channels, labels=labels, numTraining=2, file_ending=".nii.gz")


REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}


def test_nnunet_with_regions(tmp_path):
    dataset = find_cases(nnunet(tmp_path, REGIONS), BRATS, labels=True)
    assert [c.name for c in dataset.cases] == ["p1", "p2"]
    assert levels(dataset, BRATS) == [10, 20, 30, 40]
    assert dataset.channel_names["FLAIR"] == "FLAIR (_0003)"
    assert dataset.label_values == {1: 1, 2: 2, 3: 3}


def test_regions_with_other_numbers(tmp_path):
    """The enhancing tumour is 1 there, the core around it 3, the edema 2: the regions tell which is which."""
    regions = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [1, 3], "enhancing tumor": 1}
    dataset = find_cases(nnunet(tmp_path, regions), BRATS, labels=True)
    assert dataset.label_values == {1: 3, 2: 1, 3: 2}


def test_regions_that_fit_no_value(tmp_path):
    regions = {"background": 0, "tumor core": [1, 2], "whole tumor": [1, 3], "enhancing tumor": [1]}  # 2: core alone
    refusal("E-LABEL-NAME", "label 2", "fits no single value", root=nnunet(tmp_path, regions), task=BRATS)


def test_nnunet_missing_channel_names_the_case(tmp_path):
    root = nnunet(tmp_path, REGIONS)
    (root / "imagesTr/p2_0002.nii.gz").unlink()
    refusal("E-CHANNEL-MISSING", "no channel T2", root=root, task=BRATS)


def test_nnunet_missing_label_is_an_error_and_a_stray_one_a_note(tmp_path):
    root = nnunet(tmp_path, REGIONS)
    label(root / "labelsTr/p3.nii.gz", 1)
    assert any("p3.nii.gz" in note for note in find_cases(root, BRATS, labels=True).notes)
    (root / "labelsTr/p2.nii.gz").unlink()
    refusal("E-LABEL-MISSING", "1 of 2 images: p2", root=root, task=BRATS)


def test_nnunet_list_names_cases_without_their_channel_number(tmp_path):
    root = nnunet(tmp_path, {"edema": 1, "NCR": 2, "ET": 3})
    content = json.loads((root / "dataset.json").read_text())
    content["training"] = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("p1", "p2")]
    index(root, **content)
    dataset = find_cases(root, BRATS, labels=True)
    assert dataset.layout == "MSD dataset.json"
    assert levels(dataset, BRATS) == [10, 20, 30, 40]


def test_numbered_channels_without_names(tmp_path):
    root = nnunet(tmp_path, REGIONS)
    (root / "dataset.json").unlink()
    refusal("E-CHANNEL-MISSING", "numbered", "channel_names", root=root, task=BRATS)


def test_numbered_cases_are_no_channels(tmp_path):
    for name in ("scan_0001", "scan_0002"):
        image(tmp_path / f"images/{name}.nii.gz", 1)
        label(tmp_path / f"labels/{name}.nii.gz", 1)
    assert [c.name for c in find_cases(tmp_path, HIPPOCAMPUS, labels=True).cases] == ["scan_0001", "scan_0002"]


# BraTS ----------------------------------------------------------------------------------------------------------------

OLD = {"FLAIR": "flair", "T1": "t1", "T1Gd": "t1ce", "T2": "t2"}
NEW = {"FLAIR": "t2f", "T1": "t1n", "T1Gd": "t1c", "T2": "t2w"}


@pytest.mark.parametrize(
    ("cases", "tails", "separator", "values", "expected"),
    [
        (["BraTS20_Training_001", "BraTS20_Training_002"], OLD, "_", (1, 2, 4), [2, 1, 3]),
        (["BraTS2021_00000", "BraTS2021_00002"], OLD, "_", (1, 2, 4), [2, 1, 3]),
        (["HGG/Brats18_CBICA_AAB_1", "LGG/Brats18_TCIA_1"], OLD, "_", (1, 2, 4), [2, 1, 3]),
        (["BraTS-GLI-00000-000", "BraTS-GLI-00002-000"], NEW, "-", (1, 2, 3), [2, 1, 3]),
    ],
    ids=["2020", "2021", "2018", "2023"],
)
def test_brats_of_every_year(tmp_path, cases, tails, separator, values, expected):
    """1 NCR, 2 ED, 4 or 3 ET become the task's 2, 1, 3."""
    dataset = find_cases(brats(tmp_path, cases, tails, separator=separator, values=values), BRATS, labels=True)
    assert [c.name for c in dataset.cases] == sorted(Path(c).name for c in cases)
    assert levels(dataset, BRATS) == [10, 20, 30, 40]
    assert first_labels(dataset, BRATS, 4) == [*expected, 0]
    assert dataset.channel_names["T1Gd"] == tails["T1Gd"]


def test_brats_value_4_with_names_of_2023(tmp_path):
    root = brats(tmp_path, ["BraTS-GLI-00000-000"], NEW, separator="-", values=(1, 2, 4))
    dataset = find_cases(root, BRATS, labels=True)
    with pytest.raises(InputError, match=r"values 4 \(1 voxels\) outside task 'brats'; known are 0, 1, 2, 3"):
        read_label(dataset.cases[0], dataset, BRATS, None)


def test_brats_years_in_one_folder(tmp_path):
    brats(tmp_path, ["BraTS-GLI-00000-000"], NEW, separator="-", values=(1, 2, 3))
    brats(tmp_path, ["BraTS20_Training_001"], OLD)
    refusal("E-LABEL-AMBIGUOUS", "2021", root=tmp_path, task=BRATS)


def test_brats_missing_channel(tmp_path):
    root = brats(tmp_path, ["BraTS20_Training_001"], OLD)
    (root / "BraTS20_Training_001/BraTS20_Training_001_t1ce.nii.gz").unlink()
    refusal("E-CHANNEL-MISSING", "no channel T1Gd", "also as T1ce", root=root, task=BRATS)


def test_brats_odd_label_name_of_case_355(tmp_path):
    root = brats(tmp_path, ["BraTS20_Training_355"], OLD)
    folder = root / "BraTS20_Training_355"
    (folder / "BraTS20_Training_355_seg.nii.gz").rename(folder / "W39_1998.09.19_Segm.nii.gz")
    assert find_cases(root, BRATS, labels=True).cases[0].label == folder / "W39_1998.09.19_Segm.nii.gz"


def test_two_files_for_one_channel(tmp_path):
    root = brats(tmp_path, ["p1"], OLD)
    image(root / "p1/p1_t1gd.nii.gz", 0)
    refusal("E-CHANNEL-AMBIGUOUS", "T1Gd", "p1_t1ce.nii.gz", root=root, task=BRATS)


def test_one_case_name_in_two_folders(tmp_path):
    brats(tmp_path, ["HGG/p1", "LGG/p1"], OLD)
    refusal("E-DUPLICATE-CASE", "'p1'", "HGG", "LGG", root=tmp_path, task=BRATS)


def test_a_task_of_one_of_the_channels_takes_that_file(tmp_path):
    root = brats(tmp_path, ["BraTS20_Training_001"], OLD)
    flair = Task.from_dict(BRATS.as_dict() | {"channels": {"FLAIR": []}})
    assert levels(find_cases(root, flair, labels=True), flair) == [10]


# Plain folders, tables, single images ---------------------------------------------------------------------------------


def test_two_folders(tmp_path):
    for name in ("a", "b", "c"):
        image(tmp_path / f"images/{name}.nrrd", 5)
    label(tmp_path / "labels/a.nii.gz", 1, 2)
    label(tmp_path / "labels/b_seg.nii.gz", 1, 2)
    label(tmp_path / "labels/z.nii.gz", 1, 2)
    dataset = find_cases(tmp_path, HIPPOCAMPUS, labels=True)
    assert [c.name for c in dataset.cases] == ["a", "b"]
    assert dataset.cases[1].label == tmp_path / "labels/b_seg.nii.gz"
    notes = "\n".join(dataset.notes)
    assert "1 images without a label are left out: c" in notes
    assert "labels without an image are left out: z.nii.gz" in notes
    assert "taken as the task's own" in notes


def test_two_folders_with_channels_in_names_or_a_dataset_json(tmp_path):
    for channel, tail in OLD.items():
        image(tmp_path / f"a/images/p_1_{tail}.nii.gz", LEVEL[channel])
    label(tmp_path / "a/labels/p_1.nii.gz", 1)
    dataset = find_cases(tmp_path / "a", BRATS, labels=True)
    assert [c.name for c in dataset.cases] == ["p_1"]
    assert levels(dataset, BRATS) == [10, 20, 30, 40]
    image(tmp_path / "b/images/p.nii.gz", 20, 10, 40, 30)
    label(tmp_path / "b/labels/p.nii.gz", 1)
    refusal("E-CHANNEL-MISSING", "4 channels", "channel_names", root=tmp_path / "b", task=BRATS)
    index(tmp_path / "b", channel_names=["T1", "FLAIR", "T2", "T1Gd"])
    assert levels(find_cases(tmp_path / "b", BRATS, labels=True), BRATS) == [10, 20, 30, 40]


def test_no_label_at_all(tmp_path):
    image(tmp_path / "images/a.nii.gz", 5)
    (tmp_path / "labels").mkdir()
    refusal("E-LABEL-MISSING", "1 of 1", root=tmp_path, task=HIPPOCAMPUS)
    (tmp_path / "labels").rmdir()
    with pytest.raises(ConfigError, match="no folder of labels"):
        find_cases(tmp_path, HIPPOCAMPUS, labels=True)


def test_one_folder_with_images_and_labels(tmp_path):
    for name in ("a", "b"):
        image(tmp_path / f"{name}.nii.gz", 5)
        label(tmp_path / f"{name}_seg.nii.gz", 1, 2)
    dataset = find_cases(tmp_path, HIPPOCAMPUS, labels=True)
    assert [(c.name, c.label.name) for c in dataset.cases] == [("a", "a_seg.nii.gz"), ("b", "b_seg.nii.gz")]
    assert [c.name for c in find_cases(tmp_path, HIPPOCAMPUS, labels=False).cases] == ["a", "b"]


def test_two_files_of_one_stem(tmp_path):
    image(tmp_path / "a.nii.gz", 1)
    image(tmp_path / "a.nrrd", 1)
    with pytest.raises(InputError):
        find_cases(tmp_path, HIPPOCAMPUS, labels=False)


@pytest.mark.parametrize("labels", [True, False])
def test_nothing_there(tmp_path, labels):
    with pytest.raises(ConfigError, match=r"no cases in .*looked for .*nii\.gz"):
        find_cases(tmp_path, HIPPOCAMPUS, labels=labels)
    with pytest.raises(ConfigError, match="is no folder"):
        find_cases(tmp_path / "absent", HIPPOCAMPUS, labels=labels)
    assert ConfigError.exit_code == 2


def test_hidden_files_are_no_cases(tmp_path):
    image(tmp_path / "a.nii.gz", 1)
    (tmp_path / "._a.nii.gz").write_bytes(b"resource fork")
    (tmp_path / ".tmp-1.nii.gz").write_bytes(b"half")
    assert [c.name for c in find_cases(tmp_path, HIPPOCAMPUS, labels=False).cases] == ["a"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_with_one_column_per_channel(tmp_path, delimiter):
    for channel, level in LEVEL.items():
        image(tmp_path / f"scans/x-{channel}.nii.gz", level)
    label(tmp_path / "x.nii.gz", 3)
    header = ["name", "age", "T1n", "t1c", "t2w", "t2f", "Label"]
    row = ["case 1", "63", *(f"scans/x-{c}.nii.gz" for c in ("T1", "T1Gd", "T2", "FLAIR")), "x.nii.gz"]
    (tmp_path / "t.csv").write_text("\ufeff" + "\n".join(map(delimiter.join, (header, row))) + "\n", encoding="utf-8")
    dataset = find_cases(tmp_path / "t.csv", BRATS, labels=True)
    assert levels(dataset, BRATS) == [10, 20, 30, 40]
    assert dataset.cases[0].name == "case 1"
    assert dataset.notes[0] == "column 'age' is not used"
    assert find_cases(tmp_path, BRATS, labels=False, csv=tmp_path / "t.csv").cases[0].label is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("image,label\na.nii.gz,z.nii.gz\n", "E-FILE-MISSING"),
        ("image,label\na.nii.gz,\n", "line 2 has an empty cell"),
        ("image,label\na.nii.gz,l.nii.gz\na.nii.gz,l.nii.gz\n", "E-DUPLICATE-CASE"),
        ("name,image,label\n../x,a.nii.gz,l.nii.gz\n", "E-CASE-NAME"),
        ("image\na.nii.gz\n", "no column 'label'"),
        ("flair,label\na.nii.gz,l.nii.gz\n", "E-CHANNEL-MISSING"),
        ("", "E-CHANNEL-MISSING"),
    ],
)
def test_bad_tables(tmp_path, text, error):
    image(tmp_path / "a.nii.gz", 1)
    label(tmp_path / "l.nii.gz", 1)
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises((InputError, ConfigError), match=error):
        find_cases(tmp_path / "t.csv", HIPPOCAMPUS, labels=True)


def test_pictures(tmp_path):
    nuclei = load_task("nuclei")
    rng = np.random.default_rng(0)
    colours, grey = (rng.integers(0, 255, (c, 8, 9)).astype(np.uint8) for c in (3, 1))
    mask = np.zeros((1, 8, 9), np.uint8)
    mask[0, 0, :2] = 1, 255
    for name, picture in (("cell_a", colours), ("cell_b", grey)):
        write_volume(Volume(picture, np.eye(3)), tmp_path / f"images/{name}.png")
        write_volume(Volume(mask, np.eye(3)), tmp_path / f"labels/{name}.png")
    dataset = find_cases(tmp_path, nuclei, labels=True)
    assert [c.name for c in dataset.cases] == ["cell_a", "cell_b"]  # no "blue" channel in cell_b
    assert np.array_equal(read_image(dataset.cases[0], nuclei).data, colours)
    assert np.array_equal(read_image(dataset.cases[1], nuclei).data, np.repeat(grey, 3, axis=0))
    assert first_labels(dataset, nuclei, 3) == [1, 255, 0]
    assert "red <- red, green <- green, blue <- blue" in dataset.describe()


def test_classes_are_folders(tmp_path):
    shapes = load_task("shapes")
    for kind in ("Star", "round", "elongated"):
        write_volume(Volume(np.zeros((3, 8, 8), np.uint8), np.eye(3)), tmp_path / f"{kind}/{kind}_1.png")
    write_volume(Volume(np.zeros((3, 8, 8), np.uint8), np.eye(3)), tmp_path / "round/x.png")
    dataset = find_cases(tmp_path, shapes, labels=True)
    assert [(c.name, c.class_index) for c in dataset.cases] == [
        ("Star_1", 2),
        ("elongated_1", 0),
        ("round_1", 1),
        ("round_x", 1),
    ]
    assert len(find_cases(tmp_path / "round", shapes, labels=False).cases) == 2
    assert [c.class_index for c in find_cases(tmp_path, shapes, labels=False).cases] == [None] * 4
    (tmp_path / "Star").rename(tmp_path / "square")
    refusal("E-LABEL-NAME", "'square'", "elongated, round, star", root=tmp_path, task=shapes)
    shutil.rmtree(tmp_path / "square")
    refusal("E-LABEL-NAME", "no images of class 'star'", root=tmp_path, task=shapes)


# For prediction -------------------------------------------------------------------------------------------------------


def test_images_to_predict(tmp_path):
    root = msd(tmp_path / "msd")
    assert [c.name for c in find_cases(root, HIPPOCAMPUS, labels=False).cases] == ["a", "b"]
    image(root / "imagesTs/t.nii.gz", 1)
    dataset = find_cases(root, HIPPOCAMPUS, labels=False)
    assert [c.name for c in dataset.cases] == ["t"]
    assert dataset.label_values == {}
    assert "imagesTs/ are taken" in dataset.notes[0]
    assert [c.name for c in find_cases(root / "imagesTr", HIPPOCAMPUS, labels=False).cases] == ["a", "b"]
    assert [c.name for c in find_cases(root / "imagesTr/a.nii.gz", HIPPOCAMPUS, labels=False).cases] == ["a"]


def test_names_of_the_data_set_count_in_its_imagests(tmp_path):
    root = index(tmp_path, channel_names=["T1", "T1Gd", "T2", "FLAIR"], labels={})
    for i, channel in enumerate(("T1", "T1Gd", "T2", "FLAIR")):
        image(root / f"imagesTs/p_{i:04d}.nii.gz", LEVEL[channel])
    dataset = find_cases(root / "imagesTs", BRATS, labels=False)
    assert [c.name for c in dataset.cases] == ["p"]
    assert levels(dataset, BRATS) == [10, 20, 30, 40]


@pytest.mark.parametrize("nested", [True, False])
def test_one_incomplete_case_does_not_stop_the_others(tmp_path, nested):
    root = brats(tmp_path, ["p1", "p2"], OLD)
    (root / "p1/p1_t1.nii.gz").unlink()
    if not nested:
        for path in sorted(root.rglob("*.nii.gz")):
            path.rename(root / path.name)
    dataset = find_cases(root, BRATS, labels=False)
    assert [c.name for c in dataset.cases] == ["p2"]
    assert dataset.refused["p1"].code == "E-CHANNEL-MISSING"
    assert "refused: p1" in dataset.describe()
    for path in sorted(root.rglob("p2_t1.nii.gz")):
        path.unlink()
    refusal("E-CHANNEL-MISSING", root=root, task=BRATS, labels=False)


# Reading --------------------------------------------------------------------------------------------------------------


def test_label_on_another_grid(tmp_path):
    dataset = find_cases(msd(tmp_path), HIPPOCAMPUS, labels=True)
    case = dataset.cases[0]
    grid = read_image(case, HIPPOCAMPUS).grid
    moved = AFFINE.copy()
    moved[0, 3] = 1
    for bad in ({"affine": moved}, {"shape": (4, 5, 7)}):
        label(case.label, 1, **bad)
        with pytest.raises(InputError, match="E-GRID"):
            read_label(case, dataset, HIPPOCAMPUS, grid)


@pytest.mark.parametrize("value", [3, 200])
def test_label_value_outside_the_task(tmp_path, value):
    dataset = find_cases(msd(tmp_path, values=(1, value, value)), HIPPOCAMPUS, labels=True)
    with pytest.raises(InputError, match=rf"values {value} \(2 voxels\) outside task 'hippocampus'.*E-LABEL-VALUE"):
        read_label(dataset.cases[0], dataset, HIPPOCAMPUS, None)


def test_negative_label(tmp_path):
    dataset = find_cases(msd(tmp_path), HIPPOCAMPUS, labels=True)
    write_volume(Volume(np.full((1, *SHAPE), -1, np.int16), AFFINE), dataset.cases[0].label)
    with pytest.raises(InputError, match="E-LABEL-VALUE"):
        read_label(dataset.cases[0], dataset, HIPPOCAMPUS, None)


def test_values_above_255_take_16_bits(tmp_path):
    task = Task("t", {"MRI": []}, {"a": [1], "b": [700]}, (16, 16, 16))
    image(tmp_path / "images/a.nii.gz", 1)
    write_volume(Volume(np.full((1, *SHAPE), 700, np.int32), AFFINE), tmp_path / "labels/a.nii.gz")
    dataset = find_cases(tmp_path, task, labels=True)
    read = read_label(dataset.cases[0], dataset, task, None).data
    assert (read.dtype, read.max()) == (np.uint16, 700)


def test_truncated_label(tmp_path):
    dataset = find_cases(msd(tmp_path), HIPPOCAMPUS, labels=True)
    path = dataset.cases[0].label
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match="E-TRUNCATED"):
        read_label(dataset.cases[0], dataset, HIPPOCAMPUS, None)


def test_channels_on_different_grids(tmp_path):
    root = brats(tmp_path, ["p1"], OLD)
    image(root / "p1/p1_t2.nii.gz", 1, affine=np.diag([1, 1, 2.2, 1]))
    case = find_cases(root, BRATS, labels=False).cases[0]
    with pytest.raises(
        InputError,
        match=r"p1_t2.nii.gz: the channel lies on another grid than p1_flair.nii.gz: corners 1 mm apart.*E-GRID",
    ):
        read_image(case, BRATS)


def test_more_channels_or_other_axes_than_the_task(tmp_path):
    image(tmp_path / "a.nii.gz", 1, 2)
    refusal("E-CHANNEL-COUNT", "2 channels", root=tmp_path, task=HIPPOCAMPUS, labels=False)
    write_volume(Volume(np.zeros((1, 8, 8), np.uint8), np.eye(3)), tmp_path / "b/b.png")
    case = find_cases(tmp_path / "b", HIPPOCAMPUS, labels=False).cases[0]
    with pytest.raises(InputError, match="E-DIMENSIONS"):
        read_image(case, HIPPOCAMPUS)


# Splitting ------------------------------------------------------------------------------------------------------------


def test_split_depends_on_names_alone():
    cases = [Case(f"case{i}", ()) for i in range(50)]
    train, validation = split_cases(cases)
    assert (len(train), len(validation)) == (40, 10)
    assert {c.name for c in train} | {c.name for c in validation} == {c.name for c in cases}
    shuffled = random.Random(0).sample(cases, len(cases))
    assert split_cases(shuffled) == (train, validation)
    assert split_cases(cases, seed=1)[1] != validation
    assert [c.name for c in split_cases(cases[:10])[1]] == ["case3", "case9"]  # the same on every machine


def test_a_patient_is_on_one_side():
    cases = [Case(f"BraTS-GLI-{p:05d}-{t:03d}", ()) for p in range(10) for t in range(3)]
    train, validation = split_cases(cases)
    assert not {subject_of(c.name) for c in train} & {subject_of(c.name) for c in validation}
    assert len(validation) == 6
    assert subject_of("patient001_frame12") == "patient001"
    assert subject_of("sub-01_ses-02") == "sub-01"
    assert subject_of("head_scan_02") == "head_scan_02"
    assert subject_of("hippocampus_001") == "hippocampus_001"


def test_impossible_splits():
    with pytest.raises(ConfigError, match="1 patient in 1 cases"):
        split_cases([Case("a", ())])
    with pytest.raises(ConfigError, match="fraction 1 must be at least 0 and below 1"):
        split_cases([Case("a", ()), Case("b", ())], fraction=1)
    assert [len(part) for part in split_cases([Case("a", ())], fraction=0)] == [1, 0]
    assert [len(part) for part in split_cases([Case("a", ()), Case("b", ())], fraction=0.9)] == [1, 1]


# Sample data ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("brats", "brats"),
        ("brats", "brats-segformer3d"),
        ("ct", "organ_ct"),
        ("images", "nuclei"),
        ("classification", "shapes"),
    ],
)
def test_sample_data_fit_their_tasks(folder, name):
    task = load_task(name)
    dataset = find_cases(sample_data_folder() / folder, task, labels=True)
    assert dataset.cases
    assert not dataset.refused
    case = dataset.cases[0]
    volume = read_image(case, task)
    if task.kind == "classification":
        assert {c.class_index for c in dataset.cases} == set(range(len(task.labels)))
    else:
        read = read_label(case, dataset, task, volume.grid)
        assert read.data.max() in task.values


# Real data ------------------------------------------------------------------------------------------------------------


def test_real_hippocampus():
    root = real_data("msd_task04_hippocampus")
    dataset = find_cases(root, HIPPOCAMPUS, labels=True)
    assert len(dataset.cases) == 192
    for case in dataset.cases[:20]:
        read = read_label(case, dataset, HIPPOCAMPUS, read_image(case, HIPPOCAMPUS).grid)
        assert set(np.unique(read.data)) == {0, 1, 2}


def test_real_hippocampus_items_that_do_not_belong_together(tmp_path):
    bad = real_data("msd_task04_bad_items")
    good = real_data("msd_task04_hippocampus")
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        shutil.copy(good / f"{kind}Tr/hippocampus_011.nii.gz", tmp_path / kind)
    shutil.copy(bad / "image_without_label/hippocampus_118.nii.gz", tmp_path / "images")
    shutil.copy(bad / "label_without_image_copy_of_011/hippocampus_010.nii.gz", tmp_path / "labels")
    dataset = find_cases(tmp_path, HIPPOCAMPUS, labels=True)
    assert [c.name for c in dataset.cases] == ["hippocampus_011"]
    notes = "\n".join(dataset.notes)
    assert "hippocampus_118" in notes
    assert "hippocampus_010.nii.gz" in notes


def test_real_brats_box_as_msd(tmp_path):
    box = real_data("msd_task01_brain_tumour_box")
    for source, kind in (("BRATS_009_box_4ch", "imagesTr"), ("BRATS_009_box_label", "labelsTr")):
        (tmp_path / kind).mkdir()
        shutil.copy(box / f"{source}.nii.gz", tmp_path / kind / "BRATS_009.nii.gz")
    index(
        tmp_path,
        modality={"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        labels={"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        training=[{"image": "./imagesTr/BRATS_009.nii.gz", "label": "./labelsTr/BRATS_009.nii.gz"}],
    )
    dataset = find_cases(tmp_path, BRATS, labels=True)
    volume = read_image(dataset.cases[0], BRATS)
    assert volume.data.shape == (4, 147, 141, 55)
    read = read_label(dataset.cases[0], dataset, BRATS, volume.grid)
    assert set(np.unique(read.data)) == {0, 1, 2, 3}
    tumour = read.data[0] == 3
    assert volume.data[2][tumour].mean() > volume.data[1][tumour].mean()  # enhancing: bright in T1Gd, not in T1


def test_real_ct_by_the_names_of_totalsegmentator(tmp_path):
    folder = real_data("totalsegmentator_ct")
    for name, kind in (("example_ct_sm", "images"), ("example_seg", "labels")):
        (tmp_path / kind).mkdir()
        shutil.copy(folder / f"{name}.nii.gz", tmp_path / kind / "ct.nii.gz")
    named = {"spleen": 1, "kidney_right": 2, "kidney_left": 3, "gallbladder": 4, "liver": 5, "aorta": 52}
    others = {f"organ {v}": v for v in range(6, 118) if v != 52}
    index(tmp_path, channel_names={"0": "CT"}, labels={"background": 0} | named | others)
    dataset = find_cases(tmp_path, ORGANS, labels=True)
    case = dataset.cases[0]
    read = read_label(case, dataset, ORGANS, read_image(case, ORGANS).grid)
    assert read.data.max() <= 5
    assert (read.data == 1).sum() > 1000  # the liver
    assert "background <- 112 others" in dataset.describe()
