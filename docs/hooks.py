"""Pages that mkdocs makes from the code: one per verb of the command line, and the files that pages link to outside of docs/.

A verb's own words (what for, an example) are in docs/verbs/NAME.md, where there is such a file; usage, arguments and options are those
of the parser, so they cannot fall behind it.
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


def verb_parsers() -> Mapping[str, argparse.ArgumentParser]:
    """The parser of each verb, in the order of ``medseg3d --help``."""
    actions = build_parser(VERBS)._actions  # argparse tells of its parts nowhere else
    return next(a for a in actions if isinstance(a, argparse._SubParsersAction)).choices


def verb_page(name: str, words: str = "") -> str:
    """The page of a verb: what the parser says of it, its own words, then all its arguments and options."""
    parser = verb_parsers()[name]
    own = words.removeprefix(f"# {name}\n").strip()
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    opening = [f"# {name}", _description(parser), own] if own else [f"# {name}", _description(parser)]
    parts = [*opening, f"## Usage\n\n```text\n{usage}\n```"]
    shown = [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]
    for title, actions in (
        ("Arguments", [a for a in shown if not a.option_strings]),
        ("Options", [a for a in shown if a.option_strings]),
    ):
        if actions:
            rows = "\n".join(f"| {_written(a)} | {_meaning(a)} |" for a in actions)
            parts.append(f"## {title}\n\n| | |\n|---|---|\n{rows}")
    parts.append(f"[Exit codes](index.md#exit-codes) are the same for every verb. `medseg3d {name} --help` prints this page.")
    return "\n\n".join(parts) + "\n"


def _description(parser: argparse.ArgumentParser) -> str:
    return (parser.description or "").replace("%%", "%")


def _written(action: argparse.Action) -> str:
    """How an argument or option is given."""
    if action.nargs == 0:
        value = ""
    elif action.choices is not None:
        value = " {" + ",".join(map(str, action.choices)) + "}"
    else:
        value = f" {action.metavar or action.dest.upper()}"
    if not action.option_strings:
        return f"`{value.strip()}`"
    flags = [f"`{flag}`" for flag in action.option_strings]
    return ", ".join(flags) + (f" `{value.strip()}`" if value else "")


def _meaning(action: argparse.Action) -> str:
    """What it does, with the default where the help does not say it."""
    words = (action.help or "").replace("%%", "%").replace("|", "\\|").replace("<", "&lt;")
    if action.required and action.option_strings:
        words = f"**required** {words}"
    if action.default not in (None, False, True, [], argparse.SUPPRESS) and "default" not in words:
        words += f"; default `{action.default}`" if words else f"default `{action.default}`"
    return words.strip()


def verbs_table() -> str:
    """All verbs with their first sentence, and the exit codes."""
    parsers = verb_parsers()
    rows = "\n".join(f"| [`{n}`]({n}.md) | {_description(p)} |" for n, p in parsers.items())
    codes = re.sub(r"\s+", " ", EXIT_CODES.removeprefix("exit codes:")).strip().split(", ")
    lines = "\n".join("| `{}` | {} |".format(*code.split(" ", 1)) for code in codes)
    return f"| verb | |\n|---|---|\n{rows}\n\n## Exit codes\n\n| code | |\n|---|---|\n{lines}\n"


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


def on_config(config: Any) -> Any:
    """Put the verbs under their heading."""
    for entry in config.nav:
        if "Commands" in entry:
            entry["Commands"] += [f"verbs/{name}.md" for name in verb_parsers()]
    return config


def on_files(files: Any, *, config: Any) -> Any:
    """Make the pages of verbs that have no words of their own, and those of files outside of docs/."""
    from mkdocs.structure.files import File, InclusionLevel

    for name in verb_parsers():
        if files.get_file_from_path(f"verbs/{name}.md") is None:
            files.append(File.generated(config, f"verbs/{name}.md", content=f"# {name}\n"))
    linked = {
        file
        for page in files.documentation_pages()
        for _, file in outside_links(page.content_string, page.src_uri)
    }
    for file in sorted(linked):
        added = File.generated(config, _source_uri(file), content=source_page(file))
        added.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(added)
    return files


def _source_uri(file: str) -> str:
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
