"""What may leave the process: texts without the key or the password, and without what would break a file or a screen.

Everything that comes from an endpoint passes here on its way to a record, a log, or the screen: a server that echoes
the key that it was sent puts it nowhere. So do exceptions, since they quote headers, bodies and addresses.
"""

import base64
import html
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus, unquote

from ..system.errors import UserError

MASK = "***"
# Shorter ones ("none", "EMPTY", "x") are what servers without keys are given, and half of the words of an answer.
_SHORTEST_SECRET = 6
LONGEST_REASON = 500
_REPLACEMENT = "\ufffd"
_SECRET_NAME = re.compile(
    r"(?:[\w-]*[_-])?(?:(?:api)?key|token|secret|passw(?:or)?d|authorization|bearer)", re.IGNORECASE
)
# Braces are what a command's template fills in.
_NAMED_SECRET = re.compile(
    rf"(?:^|[\s\"'?&-]){_SECRET_NAME.pattern}(?:[=:]\s*|\s+)[\"']?(?:(?:bearer|basic)\s+)?([^\s\"'&{{}}]+)",
    re.IGNORECASE,
)
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


@dataclass(frozen=True)
class Redactor:
    """Masks secrets in texts; see `redactor_of`."""

    pattern: re.Pattern[str] | None = field(default=None, repr=False)

    def __call__(self, text: str) -> str:
        return self.pattern.sub(MASK, text) if self.pattern else text

    def sentence(self, text: str) -> str:
        """For records and the screen: one line of at most `LONGEST_REASON` characters, all of them printable."""
        return one_line(self(text))


def redactor_of(secrets: Iterable[str]) -> Redactor:
    """Masks these in every form that a server or a library may quote them in: as they are, percent-encoded and decoded,
    in base64, as JSON and HTML write them; in capitals or not.

    Args:
        secrets: keys, passwords, `user:password`; shorter ones than `_SHORTEST_SECRET` are none.
    """
    forms = {form for secret in secrets if len(secret) >= _SHORTEST_SECRET for form in _forms(secret)}
    # The longest first: a password's tail must not stay where `user:password` stood.
    ordered = sorted(forms - {""}, key=lambda form: (-len(form), form))
    return Redactor(re.compile("|".join(map(re.escape, ordered)), re.IGNORECASE) if ordered else None)


def _forms(secret: str) -> Iterator[str]:
    for plain in {secret, unquote(secret)}:
        yield plain
        yield quote(plain)
        yield quote(plain, safe="")
        yield quote_plus(plain)
        yield json.dumps(plain)[1:-1]
        yield html.escape(plain)
        yield base64.b64encode(plain.encode("utf-8", "replace")).decode().rstrip("=")


def secrets_in(command: str) -> set[str]:
    """What looks like a key or a password in a command line: behind a name that says so (`--api-key KEY`, `TOKEN=KEY`,
    `Authorization: Bearer KEY`), in an address (`https://user:password@host`), or as the value of an environment
    variable of such a name."""
    users = re.findall(r"://([^\s/@\"']+)@", command)
    variables = [value for name, value in os.environ.items() if _SECRET_NAME.fullmatch(name) and value in command]
    return {*_NAMED_SECRET.findall(command), *users, *(user.partition(":")[2] for user in users), *variables}


def whole_text(text: str) -> str:
    """The text with lone surrogates, which no file can hold, replaced."""
    return _LONE_SURROGATES.sub(_REPLACEMENT, text)


def one_line(text: str, longest: int = LONGEST_REASON) -> str:
    """The text as a terminal or a table can show it: no line breaks, escape sequences or turned directions."""
    text = _UNPRINTABLE.sub(" ", whole_text(text[: 4 * longest])).strip()
    return text if len(text) <= longest else f"{text[:longest]} …"


def reason_of(error: Exception, *sentences: type[Exception]) -> str:
    """Why something failed, for a record: the sentence of a UserError, or of other `sentences`; the type and text of
    what nobody foresaw."""
    return one_line(str(error) if isinstance(error, (UserError, *sentences)) else f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class RedactingFilter:
    """For the loggers of libraries, which quote addresses and headers. Equal ones are added once."""

    redact: Redactor

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.redact(record.getMessage()), ()
        return True
