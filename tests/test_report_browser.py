"""Reports in a real browser without a network: they open, sort, scroll, and say nothing on the console."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg3d.report import write_report
from medseg3d.report.case import case_section
from medseg3d.report.html import page
from medseg3d.report.source import CaseFiles
from medseg3d.task import Task
from medseg3d.volume import Volume
from tests.report_helpers import make_run

pytestmark = pytest.mark.slow
REFERENCE, PREDICTION, BOTH = [0x3D, 0xA5, 0xFF], [0xFF, 0x9D, 0x00], [0xFF, 0xFF, 0xFF]


@pytest.fixture
def report(browser, tmp_path) -> Iterator[Any]:
    browser.get(write_report(make_run(tmp_path), tmp_path / "report.html").as_uri())
    yield browser
    quiet(browser)


def quiet(browser: Any) -> None:
    """Nothing on the console, and nothing asked of a network."""
    assert browser.get_log("browser") == []
    asked = browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [name for name in asked if not name.startswith("data:")] == []


def open_viewer(browser: Any, rank: int = 1) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_script(f"document.querySelector('#case-{rank} .stage button').click()")
    WebDriverWait(browser, 20).until(
        lambda b: b.execute_script(f"return Boolean(document.querySelector('#case-{rank} canvas[data-slice]'))")
    )
    settle(browser)


def settle(browser: Any) -> None:
    """Wait until what was asked for is drawn."""
    browser.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done));")


def slices(browser: Any) -> list[str]:
    return list(
        browser.execute_script("return [...document.querySelectorAll('#case-1 canvas')].map((c) => c.dataset.slice)")
    )


def pixels(browser: Any, plane: str) -> np.ndarray:
    """What a canvas shows, ``(rows, columns, 3)``."""
    found = browser.execute_script(
        """const shown = document.querySelector(`#case-1 [data-plane=${arguments[0]}] canvas`);
        const copy = Object.assign(document.createElement('canvas'), {width: shown.width, height: shown.height});
        const context = copy.getContext('2d', {willReadFrequently: true});
        context.drawImage(shown, 0, 0);
        const data = context.getImageData(0, 0, copy.width, copy.height).data;
        return [copy.height, copy.width, btoa(Array.from(data, (v) => String.fromCharCode(v)).join(''))];""",
        plane,
    )
    return np.frombuffer(base64.b64decode(found[2]), np.uint8).reshape(found[0], found[1], 4)[..., :3]


def has(picture: np.ndarray, colour: list[int]) -> bool:
    return bool((np.abs(picture.astype(int) - colour).max(-1) < 4).any())


def column(browser: Any, index: int) -> list[str]:
    script = """const rows = [...document.querySelectorAll('#cases tbody tr')].filter((row) => !row.hidden);
        return rows.map((row) => row.cells[arguments[0]]).map((cell) => cell.dataset.value ?? cell.textContent);"""
    return list(browser.execute_script(script, index))


def click_head(browser: Any, name: str) -> int:
    """Click a column's head; returns the column."""
    script = """const heads = [...document.querySelectorAll('#cases th')];
        const i = heads.findIndex((h) => h.textContent === arguments[0]); heads[i].querySelector('button').click(); return i;"""
    return int(browser.execute_script(script, name))


def press(browser: Any, key: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    ActionChains(browser).send_keys(getattr(Keys, key, key)).perform()
    settle(browser)


def canvas(browser: Any, plane: str) -> Any:
    element = browser.find_element("css selector", f"#case-1 [data-plane={plane}] canvas")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    return element


def test_the_table_sorts_numbers_as_numbers_both_ways(report):
    index = click_head(report, "Dice")
    assert [float(v) for v in column(report, index)] == sorted(float(v) for v in column(report, index))
    assert float(column(report, index)[0]) == 0
    click_head(report, "Dice")
    assert float(column(report, index)[0]) == 1
    index = click_head(report, "HD95 mm")
    assert column(report, index)[-1] == "Infinity"
    index = click_head(report, "case")
    assert column(report, index)[:2] == ["missed", "missed"]
    click_head(report, "case")
    assert column(report, index)[0] == "shifted"


def test_what_is_missing_comes_last_both_ways(report):
    report.execute_script(
        """const index = [...document.querySelectorAll('#cases th')].findIndex((head) => head.textContent === 'Dice');
        const values = ['10', '9', '', '100', 'Infinity', '-1'];
        document.querySelectorAll('#cases tbody tr').forEach((row, i) => { row.cells[index].dataset.value = values[i]; });"""
    )
    index = click_head(report, "Dice")
    assert column(report, index) == ["-1", "9", "10", "100", "Infinity", ""]
    click_head(report, "Dice")
    assert column(report, index) == ["Infinity", "100", "10", "9", "-1", ""]


def test_the_table_filters_by_label(report):
    report.execute_script(
        "const s = document.querySelector('select.filter'); s.value = 'tumour'; s.dispatchEvent(new Event('change'));"
    )
    assert column(report, 1) == ["tumour"] * 3


def test_scrolling_and_keys_change_the_slice(report):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    open_viewer(report)
    first, picture = slices(report), pixels(report, "axial")
    axial = canvas(report, "axial")
    ActionChains(report).scroll_from_origin(ScrollOrigin.from_element(axial), 0, -100).perform()
    settle(report)
    number = int(first[0].split()[1].split("/")[0])
    assert slices(report) == [f"axial {number + 1}/8", *first[1:]]
    assert (pixels(report, "axial") != picture).any()
    ActionChains(report).scroll_from_origin(ScrollOrigin.from_element(axial), 0, 100).perform()
    settle(report)
    assert slices(report) == first
    axial.click()
    press(report, "PAGE_DOWN")
    assert slices(report)[0] == "axial 1/8"  # the last one, not beyond
    press(report, "ARROW_UP")
    assert slices(report)[0] == "axial 2/8"
    press(report, "r")
    assert slices(report) == first


def test_contours_go_off_and_on(report):
    open_viewer(report, 1)
    assert has(pixels(report, "axial"), REFERENCE)
    assert not has(pixels(report, "axial"), PREDICTION)  # the prediction missed the tumour
    report.find_element("css selector", "#case-1 .viewer").click()
    press(report, "o")
    assert not has(pixels(report, "axial"), REFERENCE)
    assert not report.find_element("css selector", "#case-1 input[type=checkbox]").is_selected()
    press(report, "o")
    assert has(pixels(report, "axial"), REFERENCE)


def test_a_drag_changes_the_window_and_a_click_goes_there(report):
    from selenium.webdriver.common.action_chains import ActionChains

    open_viewer(report)

    def window() -> list[float]:
        return [
            float(e.get_attribute("value")) for e in report.find_elements("css selector", "#case-1 input[type=number]")
        ]

    level, width = window()
    axial = canvas(report, "axial")
    ActionChains(report).move_to_element(axial).click_and_hold().move_by_offset(30, 20).release().perform()
    settle(report)
    assert window()[0] < level
    assert window()[1] > width
    before = slices(report)
    corner = [-(axial.size["width"] // 2) + 3, -(axial.size["height"] // 2) + 3]
    ActionChains(report).move_to_element_with_offset(axial, *corner).click().perform()
    settle(report)
    assert slices(report) == [before[0], "coronal 24/24", "sagittal 20/20"]  # most anterior, most right


def test_planes_are_drawn_at_one_scale_whatever_the_spacing(report):
    open_viewer(report)
    sizes = [canvas(report, plane).size for plane in ("axial", "coronal", "sagittal")]
    assert sizes[0]["width"] == sizes[1]["width"]
    scale = sizes[0]["width"] / 20  # 20 x 36 x 32 mm
    assert [s["height"] / scale for s in sizes] == pytest.approx([36, 32, 32], abs=0.2)
    assert sizes[2]["width"] / scale == pytest.approx(36, abs=0.2)


def test_printing_shows_pictures_instead_of_the_viewer(report):
    open_viewer(report)
    report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        shown = report.execute_script(
            """return ['img', '.viewer', 'button'].map((name) => document.querySelector(`#case-1 .stage ${name}`))
            .map((element) => getComputedStyle(element).display)"""
        )
        assert shown == ["block", "none", "none"]
    finally:
        report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def show(browser: Any, folder: Path, image: Volume, reference: Volume, prediction: Volume) -> None:
    """A page of one case, with its viewer open."""
    task = Task(
        name="toy",
        channels={f"c{i}": () for i in range(image.channels)},
        labels={"a": [1], "b": [2]},
        patch_size=(8,) * len(image.shape),
    )
    section = case_section(CaseFiles(lambda: image, lambda: (reference, prediction)), task, [], rank=1, name="one")
    file = folder / "one.html"
    file.write_text(page("one", section), encoding="utf-8")
    browser.get(file.as_uri())
    open_viewer(browser)


@pytest.mark.parametrize("order", ["RAS", "LPS", "stored backwards in z"])
def test_the_viewer_shows_every_side_where_it_is(browser, tmp_path, order):
    """The right anterior superior eighth of a cube is bright."""
    data = np.full((16, 16, 16), 20, np.uint8)
    data[8:, 8:, 8:] = 200
    affine = np.eye(4)
    if order == "LPS":
        data, affine = data[::-1, ::-1], np.diag([-1.0, -1.0, 1.0, 1.0])
    elif order != "RAS":
        data, affine = data[..., ::-1], np.diag([1.0, 1.0, -1.0, 1.0])
    image = Volume(np.ascontiguousarray(data)[None], affine)
    labels = np.zeros((1, 16, 16, 16), np.uint8)
    labels[0, 4:12, 4:12, 4:12] = 1
    label = image.with_data(labels)
    show(browser, tmp_path, image, label, label)
    browser.find_element("css selector", "#case-1 .viewer").click()
    press(browser, "o")
    press(browser, "x")
    for plane in ("axial", "coronal", "sagittal"):
        canvas(browser, plane).click()
        press(browser, "r")
        for _ in range(2):
            press(browser, "PAGE_UP")  # the most superior, anterior or right slice
        picture = pixels(browser, plane)[..., 1]
        rows, columns = (np.array([0.25, 0.75]) * n for n in picture.shape)
        corners = picture[np.ix_(rows.astype(int), columns.astype(int))].astype(int)
        assert np.abs(corners - [[200, 20], [20, 20]]).max() <= 6, plane
        for _ in range(2):
            press(browser, "PAGE_DOWN")
        assert pixels(browser, plane)[..., 1][int(rows[0]), int(columns[0])] < 30, plane
    quiet(browser)


def test_contours_of_the_viewer_lie_where_the_labels_are(browser, tmp_path):
    image = Volume(np.full((1, 10, 10, 10), 100, np.uint8), np.eye(4))
    reference, prediction = (np.zeros((1, 10, 10, 10), np.uint8) for _ in range(2))
    reference[0, 6:9, 2:5, 4:7] = 1  # right, posterior
    prediction[0, 6:9, 2:4, 4:7] = 1  # one row less at the anterior side
    show(browser, tmp_path, image, image.with_data(reference), image.with_data(prediction))
    press(browser, "x")
    picture = pixels(browser, "axial").astype(int)
    voxel = picture.shape[0] / 10
    found = {}
    for name, colour in (("reference", REFERENCE), ("prediction", PREDICTION), ("both", BOTH)):
        inside = picture[int(1.2 * voxel) : int(9 * voxel), int(0.5 * voxel) : int(5 * voxel)]  # away from the letters
        places = np.argwhere(np.abs(inside - colour).max(-1) < 4) + np.array([int(1.2 * voxel), int(0.5 * voxel)])
        found[name] = (places.min(0) / voxel, places.max(0) / voxel)
    rows = {name: (low[0], high[0]) for name, (low, high) in found.items()}
    assert rows["reference"] == pytest.approx((5, 6), abs=0.15)  # y = 5 is row 10 - 5; its sides to row 6 are its own
    assert rows["prediction"] == pytest.approx((6, 6), abs=0.15)
    assert rows["both"] == pytest.approx((6, 8), abs=0.15)
    assert (found["both"][0][1], found["both"][1][1]) == pytest.approx(
        (1, 4), abs=0.15
    )  # x from 6 to 9, right on the left
    quiet(browser)


def test_several_channels_and_a_colour_picture(browser, tmp_path):
    data = np.stack([np.full((8, 8, 8), value, np.uint8) for value in (40, 220)])
    image = Volume(data, np.eye(4))
    label = Volume(np.ones((1, 8, 8, 8), np.uint8), np.eye(4))
    show(browser, tmp_path, image, label, label)
    press(browser, "x")
    browser.execute_script(
        "const s = document.querySelector('#case-1 select'); s.value = '1'; s.dispatchEvent(new Event('change'));"
    )
    for _ in range(5):
        settle(browser)
    picture = pixels(browser, "axial")
    assert abs(int(picture[picture.shape[0] // 3, picture.shape[1] // 3, 0]) - 220) <= 4
    colours = np.zeros((3, 20, 30), np.uint8)
    colours[0, :10], colours[2, 10:] = 200, 200  # red above blue
    flat = Volume(np.ones((1, 20, 30), np.uint8), np.eye(3))
    show(browser, tmp_path, Volume(colours, np.eye(3)), flat, flat)
    picture = pixels(browser, "axial").astype(int)
    above, below = picture[picture.shape[0] // 4, 200], picture[3 * picture.shape[0] // 4, 200]
    assert above[0] > 150
    assert above[2] < 60
    assert below[2] > 150
    assert below[0] < 60
    quiet(browser)
