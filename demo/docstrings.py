"""Take a docstring apart: its summary, its prose, and which sections it has.

Understands the four styles found in the wild: numpydoc (a heading underlined), Google (a heading and a
colon), reST fields (`:param x:`) and reST or Markdown admonitions (`.. note::`, `!!! note`). Nothing here
guesses: a section is there only if its heading is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

# Section → the headings it goes by, in lower case, "_" for a space.
SECTIONS = {
    "Parameters": "parameters params args arguments keyword_args keyword_arguments other_parameters inputs",
    "Returns": "returns return return_value return_values return_type",
    "Yields": "yields yield",
    "Raises": "raises raise exceptions",
    "Warnings": "warnings warning",
    "Examples": "examples example usage",
    "Notes": "notes note",
    "References": "references reference",
    "See Also": "see_also seealso",
    "Attributes": "attributes",
}
_CANONICAL = {
    heading.replace("_", " "): name for name, known in SECTIONS.items() for heading in known.split()
}

# What may carry its text on the heading's own line ("Returns: the sum."); "Parameters: x" would be prose.
_INLINE = {"Returns", "Yields", "Raises", "Examples", "Notes", "Warnings"}

_UNDERLINE = re.compile(r"\s*([-=~])\1{2,}\s*")
_COLON_HEADING = re.compile(r" {0,4}([A-Z][A-Za-z ]{2,24}?)\s*::?\s*")
_INLINE_HEADING = re.compile(r"([A-Z][a-z]+): +\S.*")
_FIELD = re.compile(r"\s*:(param|arg|type|keyword|ivar|returns?|rtype|raises?|yields?)\b[^:`]*:(?!`)\s*")
_FIELD_SECTION = {
    "return": "Returns",
    "rtype": "Returns",
    "raise": "Raises",
    "yield": "Yields",
    "ivar": "Attributes",
}
_DIRECTIVE = re.compile(r"\s*(?:\.\. ([a-z]+) ?::|!!! ([a-z]+)).*")
# Google's "name (type): description"; numpydoc's "name : type" has a space before the colon.
_ENTRY = re.compile(r"\*{0,2}[A-Za-z_]\w*(?: ?\(.*?\))?:\s+(\S.*)")
_TYPED_ENTRY = re.compile(r"[`*]{0,2}\w+`{0,2} ?\(.*?\): ")
_NOT_PROSE = (".. ", "!!!", ">>>", "```", "|", "+-", "<")

_MARKUP = re.compile(
    r"\[`[~!]?(?P<md>[^`\]]+)`\](?:\([^)]*\))?"  # [`Class.method`], with or without a link
    r"|``(?P<double>[^`]+)``"
    r"|(?::[a-z:+]+:)?`(?P<single>[^`]+)`_{0,2}"  # `x`, :attr:`x`, `text <target>`_
    r"|(?<![\w*])\*{1,2}(?P<emphasis>[^\s*](?:[^*\n]*[^\s*])?)\*{1,2}(?![\w*])"
    r"|\[(?P<link>[^\]]+)\]\(\S+\)"
)
_FENCED = re.compile(r"^[ \t]*```.*?^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
OPEN, CLOSE = "\x01", "\x02"


@dataclass(frozen=True)
class Docstring:
    """A docstring's parts. `summary` is plain text; `prose` keeps what was marked as code (see `mark`)."""

    summary: str
    prose: tuple[str, ...]
    sections: tuple[str, ...]
    words: int


def parse(text: str, name: str = "") -> Docstring:
    """The parts of a (dedented) docstring; `name` is what it documents, to know a signature line by."""
    sections: dict[str, list[str]] = {"": []}
    present: set[str] = set()
    for section, line in _classified(_FENCED.sub("", text).splitlines()):
        present.add(section)
        sections.setdefault(section, []).append(line)
    description = [
        p for p in _paragraphs(sections[""]) if not _is_signature(p, name) and not _TYPED_ENTRY.match(p)
    ]
    prose = description + _paragraphs(sections.get("Notes", []))
    for section in ("Parameters", "Returns", "Raises"):
        prose += _entries(sections.get(section, []))
    return Docstring(
        summary=plain(description[0]) if description else "",
        prose=tuple(mark(paragraph) for paragraph in prose),
        sections=tuple(s for s in SECTIONS if s in present),
        words=len(text.split()),
    )


def mark(text: str) -> str:
    """One line without markup; what the markup called code or a name stands between OPEN and CLOSE."""

    def unwrap(match: re.Match[str]) -> str:
        if match["link"]:
            return match["link"]
        content = match["md"] or match["double"] or match["single"] or match["emphasis"]
        if match["single"]:
            content = re.sub(r"\s*<[^<>]*>$", "", content) or content
            if content.startswith("~"):
                content = content[1:].rpartition(".")[2]
        return f"{OPEN}{content}{CLOSE}"

    return " ".join(_MARKUP.sub(unwrap, text).split())


def plain(text: str) -> str:
    """One line of plain text: the markup gone, its contents kept."""
    return mark(text).replace(OPEN, "").replace(CLOSE, "")


def sentences(paragraph: str) -> list[str]:
    """The sentences of a (marked) paragraph: cut after a full stop which a capital or a code span follows."""
    return re.split(rf"(?<=[.!?])\s+(?=[A-Z{OPEN}])", paragraph)


def _classified(lines: list[str]) -> list[tuple[str, str]]:
    """Every line with the section it is in: "" before the first, "?" in one whose heading is not ours.

    A heading gives one pair with an empty line, so that a section is there even if nothing follows it.
    """
    found: list[tuple[str, str]] = []
    section = ""
    skip = False
    for line, below in pairwise([*lines, ""]):
        if skip:
            skip = False
        elif line.strip() and _UNDERLINE.fullmatch(below):
            section, skip = _CANONICAL.get(line.strip().rstrip(":").lower(), "?"), True
            found.append((section, ""))
        elif (heading := _COLON_HEADING.fullmatch(line)) and (
            heading[1].lower() in _CANONICAL or (section and not line.startswith(" "))
        ):
            section = _CANONICAL.get(heading[1].lower(), "?")
            found.append((section, ""))
        elif (inline := _INLINE_HEADING.fullmatch(line)) and _CANONICAL.get(inline[1].lower()) in _INLINE:
            section = _CANONICAL[inline[1].lower()]
            found.append((section, ""))
        elif field := _FIELD.match(line):
            section = _FIELD_SECTION.get(field[1].rstrip("s"), "Parameters")
            found.append((section, ""))
            found.append((section, "    " + line[field.end() :]))  # deeper, as a description is
        elif (directive := _DIRECTIVE.fullmatch(line)) and (
            name := _CANONICAL.get((directive[1] or directive[2]).lower())
        ):
            found.append((name, ""))
        else:
            found.append((section, line))
    return found


def _paragraphs(lines: list[str]) -> list[str]:
    """Unindented paragraphs, each joined to one line; code blocks (indented or fenced) are left out."""
    blocks: list[list[str]] = [[]]
    for line in lines:
        if not line.strip():
            blocks.append([])
        else:
            blocks[-1].append(line)
    return [
        " ".join(line.strip() for line in block)
        for block in blocks
        if block and not block[0][0].isspace() and not block[0].startswith(_NOT_PROSE)
    ]


def _entries(lines: list[str]) -> list[str]:
    """The descriptions in a parameter list: what stands deeper than its entries, or after their colon."""
    if not any(line.strip() for line in lines):
        return []
    margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    descriptions: list[list[str]] = [[]]
    for line in lines:
        if not line.strip():
            descriptions.append([])
        elif len(line) - len(line.lstrip()) > margin:
            descriptions[-1].append(line.strip())
        else:
            entry = _ENTRY.fullmatch(line.strip())
            descriptions.append([entry[1]] if entry else [])
    return [" ".join(block) for block in descriptions if block and not block[0].startswith(_NOT_PROSE)]


def _is_signature(paragraph: str, name: str) -> bool:
    """Does it begin with a call of what it documents ("sum(a, axis=None) -> Tensor")?"""
    called, bracket, _ = paragraph.partition("(")
    return bool(name and bracket) and called.strip().rpartition(".")[2] == name
