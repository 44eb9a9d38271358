"""Pages that mkdocs makes from the code: one per verb of the command line, the notebooks, and the files that pages link to.

A verb's own words (what for, an example) are in docs/verbs/NAME.md, where there is such a file; usage, arguments and options are
those of the parser, so they cannot fall behind it.
"""

from __future__ import annotations

import argparse
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medseg3d.cli import VERBS, build_parser
from medseg3d.cli.parser import EXIT_CODES

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\(((?:\.\./)+[\w./-]+)\)")
SOURCES = "source"
"""Folder of the site for files from outside of docs/."""
NOTEBOOKS = "notebooks"
"""Folder of the notebooks, in the repository and in the site."""


def verb_parsers() -> Mapping[str, argparse.ArgumentParser]:
    """The parser of each verb, in the order of ``medseg3d --help``."""
    actions = build_parser(VERBS)._actions  # argparse tells of its parts nowhere else
    return next(a for a in actions if isinstance(a, argparse._SubParsersAction)).choices


def verb_page(name: str, words: str = "") -> str:
    """The page of a verb: what the parser says of it, its own words, then all its arguments and options."""
    parser = verb_parsers()[name]
    own = words.removeprefix(f"# {name}\n").strip()
    opening = [f"# {name}", _description(parser), own] if own else [f"# {name}", _description(parser)]
    parts = [*opening, f"## Usage\n\n```text\n{_usage(name, parser)}\n```"]
    shown = [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]
    for title, actions in (
        ("Arguments", [a for a in shown if not a.option_strings]),
        ("Options", [a for a in shown if a.option_strings]),
    ):
        if actions:
            rows = "\n".join(f"| {_written(a)} | {_meaning(a)} |" for a in actions)
            parts.append(f"## {title}\n\n| {title[:-1].lower()} | what it does |\n|---|---|\n{rows}")
    parts.append(
        f"[Exit codes](index.md#exit-codes) are the same for every verb. `medseg3d {name} --help` prints this page."
    )
    return "\n\n".join(parts) + "\n"


def _description(parser: argparse.ArgumentParser) -> str:
    return (parser.description or "").replace("%%", "%")


def _usage(name: str, parser: argparse.ArgumentParser) -> str:
    """What a call needs, in a line; what it may have is in the table."""
    groups = [g._group_actions for g in parser._mutually_exclusive_groups if g.required]
    needed = [[a] for a in parser._actions if a.required and not any(a in group for group in groups)]
    words = [
        f"({' | '.join(map(_given, group))})" if len(group) > 1 else _given(group[0])
        for group in sorted([*groups, *needed], key=lambda group: bool(group[0].option_strings))
    ]
    return " ".join(["medseg3d", name, *words, "[OPTIONS]"])


def _given(action: argparse.Action) -> str:
    return " ".join([*action.option_strings[:1], _value(action)]).strip()


def _value(action: argparse.Action) -> str:
    """What stands behind a flag, or for an argument."""
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return f"{action.metavar or action.dest.upper()}{' ...' if action.nargs == '+' else ''}"


def _written(action: argparse.Action) -> str:
    """How an argument or option is given, every spelling of it."""
    return " ".join(
        filter(None, [", ".join(f"`{flag}`" for flag in action.option_strings), f"`{_value(action)}`"])
    ).replace(" ``", "")


def _meaning(action: argparse.Action) -> str:
    """What it does, with the default where the help does not say it."""
    words = (action.help or "").replace("%%", "%").replace("|", "\\|").replace("<", "&lt;")
    if action.required and action.option_strings:
        words = f"**required** {words}"
    default = action.default
    if default not in (None, False, True, [], argparse.SUPPRESS) and "default" not in words:
        shown = ",".join(map(str, default)) if isinstance(default, (list, tuple)) else default
        words = "; ".join(filter(None, [words, f"default `{shown}`"]))
    return words.strip()


def verbs_table() -> str:
    """All verbs with their first sentence, and the exit codes."""
    parsers = verb_parsers()
    rows = "\n".join(f"| [`{n}`]({n}.md) | {_description(p)} |" for n, p in parsers.items())
    codes = re.sub(r"\s+", " ", EXIT_CODES.removeprefix("exit codes:")).strip().split(", ")
    lines = "\n".join("| `{}` | {} |".format(*code.split(" ", 1)) for code in codes)
    return f"| verb | what it does |\n|---|---|\n{rows}\n\n## Exit codes\n\n| code | meaning |\n|---|---|\n{lines}\n"


def outside_links(markdown: str, page: str) -> Iterator[tuple[str, str]]:
    """The links of a page that leave docs/: as written, and the file from the root of the repository."""
    for match in LINK.finditer(markdown):
        file = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), match[1]))
        if not file.startswith("docs/") and (ROOT / file).is_file():
            yield match[1], file


def source_page(file: str) -> str:
    """A file of the repository as a page."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.endswith(".md"):
        return text
    kind = {".yaml": "yaml", ".py": "python"}.get(Path(file).suffix, "text")
    return f"# {file}\n\n````{kind}\n{text.rstrip()}\n````\n"


def notebook_page(file: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook with its stored outputs as a page, and the pictures that the page shows, by their places from its folder."""
    from nbconvert import MarkdownExporter

    about = {"unique_key": "picture", "output_files_dir": file.stem}
    text, resources = MarkdownExporter().from_filename(str(file), resources=about)
    text = re.sub(r"\]\(([\w-]+)\.ipynb\)", r"](\1.md)", text.replace("](../docs/", "](../"))
    return re.sub(r"\n{3,}", "\n\n", text.replace("![png](", "![what the cell above shows](")), resources["outputs"]


def on_config(config: Any) -> Any:
    """Put the verbs and the notebooks under their headings."""
    sections = [section for entry in config.nav for section in entry.values() if isinstance(section, list)]
    commands = next(entry["Commands"] for section in sections for entry in section if "Commands" in entry)
    commands += [{name: f"verbs/{name}.md"} for name in verb_parsers()]
    notebooks = next(entry["Notebooks"] for entry in config.nav if "Notebooks" in entry)
    notebooks += [f"{NOTEBOOKS}/{file.stem}.md" for file in notebook_files()]
    return config


def notebook_files() -> list[Path]:
    return sorted((ROOT / NOTEBOOKS).glob("*.ipynb"))


def on_files(files: Any, *, config: Any) -> Any:
    """Make the pages of verbs that have no words of their own, of notebooks, and of files outside of docs/."""
    from mkdocs.structure.files import File, InclusionLevel

    for name in verb_parsers():
        if files.get_file_from_path(f"verbs/{name}.md") is None:
            files.append(File.generated(config, f"verbs/{name}.md", content=f"# {name}\n"))
    for notebook in notebook_files():
        text, pictures = notebook_page(notebook)
        files.append(File.generated(config, f"{NOTEBOOKS}/{notebook.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"{NOTEBOOKS}/{name}", content=content))
    linked = {
        file for page in files.documentation_pages() for _, file in outside_links(page.content_string, page.src_uri)
    }
    for file in sorted(f for f in linked if not f.endswith(".ipynb")):
        added = File.generated(config, _source_uri(file), content=source_page(file))
        added.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(added)
    return files


def _source_uri(file: str) -> str:
    """The page of a file from outside of docs/."""
    if file.endswith(".ipynb"):
        return f"{file.removesuffix('.ipynb')}.md"
    return f"{SOURCES}/{file if file.endswith('.md') else file + '.md'}"


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Complete a verb's page, and lead links that leave docs/ to the pages made for them."""
    uri = page.file.src_uri
    if uri == "verbs/index.md":
        markdown = f"{markdown.rstrip()}\n\n{verbs_table()}"
    elif uri.startswith("verbs/"):
        markdown = verb_page(Path(uri).stem, markdown)
    for link, file in outside_links(markdown, uri):
        target = posixpath.relpath(_source_uri(file), posixpath.dirname(uri) or ".")
        markdown = markdown.replace(f"]({link})", f"]({target})")
    return markdown
