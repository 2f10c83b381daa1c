"""Texts from outside in files that other programs open: names of runs, judges and items are shown, and do nothing."""

import re
import unicodedata

from ..judge.redact import one_line

# What a spreadsheet takes for the beginning of a formula, also as wide characters.
FORMULA_STARTS = ("=", "+", "-", "@")
# Marks of Markdown that have a meaning within a line; an underscore has none between letters.
_MARKDOWN = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])")
# What GitHub's Markdown makes links and mentions of without being asked.
_AUTOLINKS = re.compile(r"(?<=\w):(?=//)|(?<=www)\.|@", re.IGNORECASE)
# Within a line's first characters: headings, lists, quotations, lines.
_MARKDOWN_STARTS = re.compile(r"\A(?:([#>+\-=])|(\d+)([.)]))")
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    # Behind the end of a row, these would be its arguments.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "†": r"\textsuperscript{\textdagger}",
    "–": "--",
    "−": "$-$",
    "τ": r"$\tau$",
    "ρ": r"$\rho$",
    "≥": r"$\geq$",
}
LONGEST = 2000


def plain_text(text: str) -> str:
    """For a screen: one line without control characters."""
    return one_line(text, LONGEST)


def markdown_text(text: str) -> str:
    """For Markdown that allows HTML, in a paragraph, a heading, or a cell of a table."""
    text = plain_text(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKDOWN.sub(lambda mark: f"\\{mark[0]}", text)
    text = _AUTOLINKS.sub(lambda mark: f"&#{ord(mark[0])};", text)
    return _MARKDOWN_STARTS.sub(lambda start: f"\\{start[1]}" if start[1] else f"{start[2]}\\{start[3]}", text)


def csv_cell(text: str) -> str:
    """For a cell of words in a table that a spreadsheet opens: an apostrophe keeps it from being a formula."""
    plain = plain_text(text)
    begins = unicodedata.normalize("NFKC", plain)[:1]
    return f"'{plain}" if begins in FORMULA_STARTS or text[:1] in ("\t", "\r", "\n") else plain


def latex_text(text: str) -> str:
    """For a paragraph, a caption, a comment, or a cell of a table."""
    return "".join(LATEX_SPECIAL.get(character, character) for character in plain_text(text))
