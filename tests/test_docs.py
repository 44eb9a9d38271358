"""What the documents say exists: links, anchors, verbs, flags, public names; and the site builds from them, without a network."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import medseg3d
from medseg3d.cli import VERBS
from tests.shared import ROOT

PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
FENCE = re.compile(r"^```+([\w-]*)\n(.*?)^```+$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"^ {4}(?:srun )?((?:medseg3d|python -m|torchrun) .*)$", re.MULTILINE)
INLINE = re.compile(r"`((?:medseg3d|python -m|torchrun) [^`]*)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
SHELLS = ("sh", "bash")


@cache
def hooks() -> Any:
    """docs/hooks.py, which is no module of the package."""
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges and mkdocs make them; those of a verb's page come from the parser, too."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    if page == ROOT / "docs" / "verbs" / "index.md":
        text += hooks().verbs_table()
    headings = re.findall(r"^#+ +(.+?)\s*$", text, flags=re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", h).strip().lower()) for h in headings}


def commands(text: str) -> Iterator[str]:
    """What a page shows as a command: lines of shell blocks, lines that are indented as code, code in a sentence."""
    for language, block in FENCE.findall(text):
        if language in SHELLS:
            yield from lines_of(block)
    rest = FENCE.sub("", text)
    yield from INDENTED.findall(rest)
    yield from INLINE.findall(rest)


def lines_of(block: str) -> list[str]:
    """The commands of a shell block, without comments, those over several lines joined."""
    lines = [line.split("  #")[0].strip() for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def faults(command: str) -> list[str]:
    """The verbs, flags and modules of a command that do not exist."""
    words = re.sub(r"[\[\]]", " ", command).replace("...", " ").split()
    if words[:2] == ["python", "-m"] and len(words) > 2 and words[2].startswith("benchmarks."):
        there = (ROOT / f"{words[2].replace('.', '/')}.py").is_file()
        return [] if there else [f"{words[2]} is no module here"]
    words = words[words.index("medseg3d") + 1 :] if "medseg3d" in words else []
    parsers = hooks().verb_parsers()
    if not words or words[0] in ("--help", "--version", "VERB"):
        return []
    if words[0] not in parsers:
        return [f"{words[0]} is no verb"]
    known = {flag for action in parsers[words[0]]._actions for flag in action.option_strings}
    flags = [w.strip(",;:.").split("=")[0] for w in words[1:] if re.match(r"--?[a-zA-Z]", w)]
    return [f"{words[0]} has no {flag}" for flag in flags if flag not in known]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_anchors_exist(page: Path) -> None:
    wrong = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue  # what others publish is not asked
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or (anchor and (found.suffix != ".md" or anchor not in anchors(found))):
            wrong.append(target)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_use_what_the_parser_knows(page: Path) -> None:
    wrong = {c: f for c in commands(page.read_text(encoding="utf-8")) if (f := faults(c))}
    assert not wrong


def test_wrong_commands_are_found() -> None:
    block = "```sh\npython -m benchmarks.none\nmedseg3d info \\\n  -q f\n```\n"
    text = f"`medseg3d trian x`\n\n    medseg3d predict --modle a\n\n{block}"
    assert [faults(c) for c in commands(text)] == [
        ["benchmarks.none is no module here"],
        ["info has no -q"],
        ["predict has no --modle"],
        ["trian is no verb"],
    ]


def test_whole_commands_of_the_verbs_pages_parse() -> None:
    from medseg3d.cli import build_parser

    parser = build_parser(VERBS)
    for page in (ROOT / "docs" / "verbs").glob("*.md"):
        for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
            for line in lines_of(block) if language in SHELLS else []:
                options = parser.parse_args(shlex.split(line)[1:])
                assert options.run.__name__ == page.stem or page.stem in ("plan", "download")


def test_every_option_of_every_verb_is_on_its_page() -> None:
    for verb, parser in hooks().verb_parsers().items():
        page = hooks().verb_page(verb)
        assert page.startswith(f"# {verb}\n\n{parser.description}")
        for action in parser._actions:
            for flag in action.option_strings:
                assert f"`{flag}`" in page or flag in ("-h", "--help")


def test_usage_says_what_is_needed() -> None:
    page = hooks().verb_page("predict", "# predict\n\nOwn words.\n")
    assert "\n\nOwn words.\n\n## Usage" in page
    assert "medseg3d predict (--bundle DIR | --model RUN) -i FOLDER -o FOLDER [OPTIONS]" in page
    assert "| `-i`, `--input` `FOLDER` | **required** folder of scans" in page
    assert "medseg3d compare A B [OPTIONS]" in hooks().verb_page("compare")


def test_public_names_are_those_of_the_package() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    table = page.split("## Parts")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)) == sorted(
        set(medseg3d.__all__) - {"__version__"}
    )
    for module, what in re.findall(r"^\| `(medseg3d\.[\w.]+)` \| (.*) \|$", page, flags=re.MULTILINE):
        found = importlib.import_module(module)
        for public in re.findall(r"`(\w+)`", what):
            assert hasattr(found, public), f"{module}.{public}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("material") is None or importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs-material is not installed (extra 'docs')")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_a_page_for_every_verb(site: Path) -> None:
    for verb in hooks().verb_parsers():
        assert f'href="{verb}.html"' in (site / "verbs" / "index.html").read_text(encoding="utf-8")
        assert "<h2 id=" in (site / "verbs" / f"{verb}.html").read_text(encoding="utf-8")
    assert "steps_per_epoch" in (site / "source" / "configs" / "train.yaml.html").read_text(encoding="utf-8")
    assert not (site / "hooks.py").exists()


def test_the_site_shows_the_notebooks_with_their_outputs(site: Path) -> None:
    for file in hooks().notebook_files():
        page = (site / "notebooks" / f"{file.stem}.html").read_text(encoding="utf-8")
        assert "<h1" in page and "<pre" in page
        pictures = re.findall(r"<img [^>]*src=\"?([\w./-]+\.png)", page)
        assert len(pictures) == file.read_text(encoding="utf-8").count('"image/png"') > 0
        assert all((site / "notebooks" / picture).is_file() for picture in pictures)


def test_the_site_fetches_nothing(site: Path) -> None:
    """No style, script, font, picture or frame of another place; what readers may click on is theirs to choose."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:link|script|img|iframe|source)\b[^>]*?\b(?:href|src)=\"?([^\"\s>]+)", text)
        assert loaded
        if page.name != "404.html":
            assert not [u for u in loaded if re.match(r"(?:[a-z]+:)?//|/", u)], page
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style


@pytest.mark.slow
def test_the_search_works_from_a_folder(site: Path, browser: Any) -> None:
    """In a page that was opened as a file, where a browser starts no workers and reads no JSON."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get((site / "index.html").as_uri())
    box = browser.find_element(By.CSS_SELECTOR, "input.md-search__input")
    box.click()
    box.send_keys("RTSTRUCT")
    results = WebDriverWait(browser, 60).until(lambda b: b.find_elements(By.CSS_SELECTOR, ".md-search-result__link"))
    assert any("dicom.html" in r.get_attribute("href") for r in results)
    assert browser.get_log("browser") == []
    asked = browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
