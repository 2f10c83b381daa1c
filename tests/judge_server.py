"""An OpenAI-compatible judge on the loopback interface whose scores are a pure function of what it is asked.

It misbehaves on a schedule: a `Mishap` for the n-th request. What it sold is counted by what was asked, where the
repeat is the seed modulo the stride that repeated attempts are apart.
"""

import collections
import email.utils
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sama_video.judge.questions import SEED_STRIDE


@dataclass(frozen=True)
class Mishap:
    """What happens to a request instead of an answer.

    Args:
        status: of the response.
        body: of the response; `text` in its place wraps a completion's text as a server would.
        headers: further ones.
        delay: seconds before the response.
        closes: hang up without a response.
        wire: makes the bytes that are put on the wire as they are, instead of a response; then the server hangs up.
        echoes: makes a response of the request's headers.
    """

    status: int = 200
    body: str = ""
    text: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0
    closes: bool = False
    wire: Callable[[], Iterable[bytes]] | None = None
    echoes: Callable[[Mapping[str, str]], str] | None = None


def error_body(message: str) -> str:
    return json.dumps({"error": {"message": message, "type": "error", "code": None}})


def in_seconds(seconds: float) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


def identity(request: dict) -> str:
    """Of what is asked: content and repeat, not the attempt."""
    asked = json.dumps(request["messages"], sort_keys=True) + str(request["seed"] % SEED_STRIDE)
    return hashlib.sha256(asked.encode()).hexdigest()


def answer_text(request: dict) -> str:
    """What the prompt asks for, drawn from a hash of the question: scores near the top of the scale, some lower.

    The prompt shows an object whose values are `<...>`, or lines such as "Quality: 1-5."; a placeholder's last number
    is the top of its scale. A prompt that only names its keys gets them.
    """
    digest = hashlib.sha256(identity(request).encode()).digest()
    drawn = iter(digest[:16])

    def score(top: str) -> int:
        return max(1, int(top) - (0, 1, 0, 1, 2, 0, 1, 5)[next(drawn) % 8])

    text = f"as {digest.hex()[:8]} says"
    system = [message["content"] for message in request["messages"] if message["role"] == "system"]
    prompt = max([*system, *(part["text"] for part in shown_of(request) if part["type"] == "text")], key=len)
    form = prompt[prompt.rfind("\n{") :] if "\n{" in prompt else ""
    if form:
        form = re.sub(r'"<[^<>]*>"', f'"{text}"', form[: form.index("\n}") + 2])
        return re.sub(r"<[^<>]*?(\d+)>", lambda match: str(score(match[1])), form)
    if lines := re.findall(r"^([^:\n]+): .*?1\D+(\d+)\.?$", prompt, re.MULTILINE):
        return "\n".join([f"Brief reasoning: {text}", *(f"{label}: {score(top)}" for label, top in lines)])
    keys = re.findall(r'"(\w+_score)"', prompt)
    return json.dumps({**{key: score("10") for key in keys}, "explanation": text})


USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


def completion_body(text: object, model: str = "judge", usage: object = USAGE) -> str:
    message = {"role": "assistant", "content": text}
    return json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        }
    )


def shown_of(request: dict) -> list[dict]:
    """The parts of a request's message of the user."""
    return request["messages"][-1]["content"]


class JudgeServer:
    """Serves in threads while its context lasts.

    Args:
        mishaps: for the first requests in their order; None answers one as usual.
        always: for every request after those.
        delay: seconds that each usual answer takes.

    Attributes:
        then: what happens once `mishaps` are over; starts as `always`.
        requests: bodies in order of arrival.
        paths: that they were sent to.
        sold: number of usual answers by `identity`.
    """

    def __init__(self, mishaps: Iterable[Mishap | None] = (), *, always: Mishap | None = None, delay: float = 0.0):
        self.mishaps = iter(mishaps)
        self.then = always
        self.delay = delay
        self.requests: list[dict] = []
        self.paths: list[str] = []
        self.sold: collections.Counter[str] = collections.Counter()
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "JudgeServer":
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body in one packet: otherwise each answer waits for a delayed acknowledgement.
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_POST(self):
                server.handle(self)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # clients that were killed hang up

        self._server = Server(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.requests.append(request)
            self.paths.append(handler.path)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            mishap = next(self.mishaps, self.then)
        try:
            self._respond(handler, request, mishap)
        finally:
            with self._lock:
                self._at_once -= 1

    def _respond(self, handler: BaseHTTPRequestHandler, request: dict, mishap: Mishap | None) -> None:
        if mishap is None:
            time.sleep(self.delay)
            with self._lock:
                self.sold[identity(request)] += 1
            _send(handler, 200, completion_body(answer_text(request)), (("Content-Type", "application/json"),))
            return
        time.sleep(mishap.delay)
        if mishap.closes:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        if mishap.wire is not None:
            _put_on_the_wire(handler, mishap.wire())
            return
        body = mishap.body if mishap.text is None else completion_body(mishap.text)
        body = mishap.echoes(handler.headers) if mishap.echoes else body
        _send(handler, mishap.status, body, mishap.headers or (("Content-Type", "application/json"),))


def _put_on_the_wire(handler: BaseHTTPRequestHandler, pieces: Iterable[bytes]) -> None:
    handler.close_connection = True
    for piece in pieces:
        handler.wfile.write(piece)
        handler.wfile.flush()


def _send(handler: BaseHTTPRequestHandler, status: int, body: str, headers: tuple[tuple[str, str], ...]) -> None:
    content = body.encode("utf-8", "surrogatepass")
    handler.send_response(status)
    for name, value in headers:
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
    handler.wfile.flush()
