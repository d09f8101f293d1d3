"""Read the parts of Markdown that the tests check: headings, links, and paths in code."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from posixpath import dirname, join, normpath
from urllib.parse import unquote

_FENCE = re.compile(r"^ {0,3}(```+|~~~+).*?^ {0,3}\1[`~]*[ \t]*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+[\"'][^)]*)?\)")
_REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:[ \t]*<?(\S+?)>?(?:[ \t].*)?$", re.MULTILINE)
_HTML = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)=\"([^\"]+)\"")
_ANCHOR = re.compile(r"<a\b[^>]*?\b(?:id|name)=\"([^\"]+)\"")
_MARKUP = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|[`*]|(?<!\w)_|_(?!\w)|<[^>]+>")
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:|^//", re.IGNORECASE)
_WORD = re.compile(r"[^\s\"'`,;:()|=]+")
_PATH = re.compile(r"(?:[\w.*-]+/)+[\w.*-]*|[\w-]+\.(?:py|[ch])")
_SOURCE = re.compile(r"\.(?:py|[ch]|md|sh)$")


@dataclass(frozen=True)
class Document:
    """A Markdown file.

    Attributes:
        path: the file's path in the repository.
        text: the file's content.
    """

    path: str
    text: str


def slugs(text: str) -> set[str]:
    """Return the anchors of a document: those that GitHub creates from headings, and those in HTML.

    GitHub converts a heading to lower case, removes all punctuation except hyphens and underscores, and turns spaces into hyphens.
    The second heading with the same anchor gets `-1`, and the third gets `-2`.
    """
    found: set[str] = set(_ANCHOR.findall(text))
    seen: Counter[str] = Counter()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = _MARKUP.sub(lambda match: match[1] or "", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def links(text: str) -> list[str]:
    """Return the targets of a document's links and images, except those in code."""
    prose = _CODE.sub("``", _FENCE.sub("", text))
    return [found for pattern in (_LINK, _REFERENCE, _HTML) for found in pattern.findall(prose)]


def broken_links(document: Document, files: Collection[str], anchors: dict[str, set[str]]) -> list[str]:
    """Return a sentence for each relative link to a file or an anchor that does not exist.

    Arguments:
        files: all files of the repository.
        anchors: the anchors of each document.
    """
    folders = folders_of(files)
    found = []
    for link in links(document.text):
        if _SCHEME.match(link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = normpath(join(dirname(document.path), path)) if path else document.path
        if target not in files and target not in folders:
            found.append(f"{document.path}: the link {link} points to no file")
        elif anchor and target in anchors and anchor not in anchors[target]:
            found.append(f"{document.path}: the link {link} points to no heading of {target}")
    return found


def paths(text: str, roots: Collection[str]) -> list[str]:
    """Return the words in a document's code that look like paths of the repository.

    In code blocks, these are the paths that begin with a root. In inline code, names of source files count as well.
    """
    found = [word for block in _FENCE.finditer(text) for word in _words(block[0]) if word.partition("/")[0] in roots]
    for span in _CODE.finditer(_FENCE.sub("", text)):
        found += [word for word in _words(span[2]) if word.partition("/")[0] in roots or _SOURCE.search(word)]
    return found


def missing_paths(document: Document, files: Collection[str], roots: Collection[str]) -> list[str]:
    """Return a sentence for each path in code that does not exist in the repository, neither in its root nor in any folder."""
    existing = {f"/{one}" for one in (*files, *folders_of(files))}
    return [
        f"{document.path}: the path {path} does not exist"
        for path in paths(document.text, roots)
        if not any(fnmatch.fnmatchcase(one, f"*/{path.rstrip('/')}") for one in existing)
    ]


def folders_of(files: Collection[str]) -> set[str]:
    """Return all folders that contain the files, including the repository's root as `.`."""
    found = {"."}
    for file in files:
        while file := dirname(file):
            found.add(file)
    return found


def _words(code: str) -> Iterator[str]:
    for word in _WORD.findall(code):
        path = word.removeprefix("./").rstrip(".")
        if _PATH.fullmatch(path):
            yield path
