"""The judge's endpoint: its address taken apart, and a client whose requests end in time and in bytes.

A client's own time limit counts from byte to byte, so a server that sends one now and then is never late. Here a
request has one deadline, from its first byte to the answer's last, at which its connection is shut; an answer has a
largest size, before and after it is unpacked; and nothing is sent on to another address.
"""

import base64
import contextlib
import logging
import math
import re
import socket
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ..system.errors import UserError
from .redact import MASK, RedactingFilter, Redactor

# An answer of 8192 tokens takes about 32 KB.
_LARGEST_BODY = 8 * 2**20
# Loggers of the libraries in between, which write addresses (at INFO) and headers (at DEBUG).
_LIBRARY_LOGGERS = tuple(
    f"{library}{part}"
    for library in ("openai", "httpx", "httpx2", "httpcore", "httpcore2")
    for part in ("", "._base_client", ".connection", ".http11", ".http2", ".proxy", ".socks")
)


class BrokenAnswerError(Exception):
    """The endpoint's answer cannot be taken; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An address without its secrets, and those beside it.

    Args:
        url: without user, password and query.
        shown: the address as it may be printed.
        headers, query: sent with every request.
        secrets: what `headers` and `query` hold that must not be printed.
    """

    url: str
    shown: str
    headers: Mapping[str, str] = field(repr=False)
    query: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


def endpoint_of(base_url: str) -> Endpoint:
    """Takes an address such as `https://user:password@host/v1?api_key=KEY` apart.

    Raises:
        UserError: for an address that is none; the message does not hold its secrets.
    """
    if not base_url.startswith(("http://", "https://")):
        # What stands before an @ or after a ? may be a secret.
        visible = base_url.rpartition("@")[2].partition("?")[0]
        raise UserError(f"the base URL must begin with http:// or https://, got {visible!r}")
    parts = _split(base_url)
    headers, secrets = _user_of(parts)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    where = f"{parts.netloc.rpartition('@')[2]}{parts.path}"
    return Endpoint(
        url=f"{parts.scheme}://{where}",
        shown=f"{parts.scheme}://{f'{MASK}@' if headers else ''}{where}{f'?{MASK}' if query else ''}",
        headers=headers,
        query=query,
        secrets=(*secrets, *query.values()),
    )


def _split(base_url: str) -> SplitResult:
    try:
        parts = urlsplit(base_url)
        known = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known or re.search(r"[\x00-\x20\x7f\\]", base_url):
        raise UserError("the base URL is no address of an endpoint; it looks like http://localhost:8000/v1")
    if "@" in parts.path:
        raise UserError(
            "the base URL has an @ behind its host: write the characters / ? # @ of a password as %2F %3F %23 %40"
        )
    return parts


def _user_of(parts: SplitResult) -> tuple[dict[str, str], tuple[str, ...]]:
    """The header that says user and password, and what must not be printed of them."""
    user, at, _ = parts.netloc.rpartition("@")
    if not at:
        return {}, ()
    name, colon, password = (unquote(part) for part in user.partition(":"))
    credentials = base64.b64encode(f"{name}:{password}".encode()).decode()
    # A name alone is a token.
    return {"Authorization": f"Basic {credentials}"}, (user, f"{name}:{password}", password if colon else name)


def check_seconds(name: str, value: float) -> None:
    """Raises UserError for a time limit that is none."""
    if not 0 < value < math.inf:
        raise UserError(f"`{name}` must be a number of seconds above 0, got {value:g}")


def open_client(endpoint: Endpoint, key: str, timeout: float, redact: Redactor) -> Any:
    """An openai client for the endpoint; it tries nothing twice.

    Raises:
        UserError: if the openai package is missing, or the address is none.
    """
    try:
        import openai
    except ImportError as error:
        raise UserError("asking a judge needs the openai package: pip install 'sama-video[judge]'") from error
    for name in _LIBRARY_LOGGERS:
        logging.getLogger(name).addFilter(RedactingFilter(redact))
    try:
        return openai.OpenAI(
            base_url=endpoint.url,
            api_key=key,
            timeout=timeout,
            max_retries=0,
            default_headers=dict(endpoint.headers) or None,
            default_query=dict(endpoint.query) or None,
            http_client=_bounded_client(timeout),
        )
    except ValueError as error:  # also the library's own InvalidURL
        raise UserError(f"the base URL {endpoint.shown} is no address of an endpoint ({redact(str(error))})") from None


def _bounded_client(timeout: float) -> Any:
    import openai

    class BoundedClient(openai.DefaultHttpxClient):
        """Sends one request at a time within the bounds; no public name of its library but `send` is relied on."""

        def send(self, request: Any, **options: Any) -> Any:
            # A connection of its own each: a watch that shuts one must not meet another request's.
            request.headers["Connection"] = "close"
            request.headers["Accept-Encoding"] = "identity"
            with _Watch(timeout) as watch:
                request.extensions = {**request.extensions, "trace": watch.trace}
                response = super().send(request, **{**options, "stream": True, "follow_redirects": False})
                try:
                    body = _bounded_body(response)
                finally:
                    with contextlib.suppress(Exception):
                        response.close()
            headers = [(name, value) for name, value in response.headers.items() if name not in _ABOUT_THE_BODY]
            return type(response)(response.status_code, headers=headers, content=body, request=request)

    return BoundedClient(timeout=timeout)


_ABOUT_THE_BODY = {"content-encoding", "content-length", "transfer-encoding"}


def _bounded_body(response: Any) -> bytes:
    """The body of a response that streams.

    Raises:
        BrokenAnswerError: for one above `_LARGEST_BODY`, packed or unpacked, or packed in a way that was not asked for.
    """
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        _check_size(len(body))
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return bytes(body)
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise BrokenAnswerError(f"the answer is packed as {encoding[:40]!r}, which was not asked for")
    return _unpacked(bytes(body))


def _unpacked(body: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=47)  # gzip and zlib
    try:
        content = unpacker.decompress(body, _LARGEST_BODY + 1)
    except zlib.error as error:
        raise BrokenAnswerError(f"the answer cannot be unpacked ({error})") from error
    _check_size(len(content))
    if not unpacker.eof:
        raise BrokenAnswerError("the answer is packed and cut off")
    return content


def _check_size(size: int) -> None:
    if size > _LARGEST_BODY:
        raise BrokenAnswerError(f"the answer is larger than {_LARGEST_BODY // 2**20} MiB")


class _Watch:
    """The deadline of one request: at its end the connection is shut, whoever waits for it.

    Args:
        seconds: from the beginning of the context.

    Raises:
        BrokenAnswerError: at the end of the context, if the time was over before the request was.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.expired = False
        self._socket: socket.socket | None = None
        self._changing = threading.Lock()
        self._timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._end)
        self._timer.daemon = True

    def trace(self, _: str, info: dict[str, Any]) -> None:
        """Called by the client's library at each step; those that open a connection return its stream."""
        extra_info = getattr(info.get("return_value"), "get_extra_info", None)
        if extra_info is not None:
            with self._changing:
                self._socket = extra_info("socket")
                if self.expired:
                    self._shut()

    def _end(self) -> None:
        with self._changing:
            self.expired = True
            self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Not the method of a TLS socket, which would first be polite.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def __enter__(self) -> "_Watch":
        self._timer.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        self._timer.cancel()
        if self.expired and (error is None or isinstance(error, Exception)):
            raise BrokenAnswerError(f"no whole answer within {self.seconds:g} s") from None
