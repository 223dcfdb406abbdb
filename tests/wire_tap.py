"""Hold what a gateway sends against the JSON Schema of the protocol's revision: every message of every exchange."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs

SCHEMAS = Path(__file__).parent / "schemas"
MODERN = "2026-07-28"
LATEST_LEGACY = "2025-11-25"
META_VERSION = "io.modelcontextprotocol/protocolVersion"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
UNREAD = frozenset({401, 403, 405, 406, 413, 415, 421})
"""HTTP statuses of requests that are refused before their body, and with it their id, is read."""

REVISIONS = frozenset(path.stem for path in SCHEMAS.glob("*.json"))


class Http(NamedTuple):
    """One HTTP message: its first line, its headers by lower-case name, and what came of its body."""

    start: str
    headers: dict[str, str]
    body: bytes
    complete: bool

    @classmethod
    def parse(cls, data: bytes) -> "Http | None":
        """Read a message, with its body out of chunks; None where not even the head is there."""
        head, separator, body = data.partition(b"\r\n\r\n")
        if not separator:
            return None
        start, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return cls(start, headers, *_unchunked(body))
        length = int(headers.get("content-length", 0))
        return cls(start, headers, body[:length], len(body) >= length)

    @property
    def status(self) -> int:
        """Return the status of a response."""
        return int(self.start.split(" ")[1])


def _unchunked(data: bytes) -> tuple[bytes, bool]:
    found = bytearray()
    while True:
        size_line, separator, rest = data.partition(b"\r\n")
        if not separator:
            return bytes(found), False
        size = int(size_line.partition(b";")[0], 16)
        if size == 0:
            return bytes(found), True
        found += rest[:size]
        data = rest[size + 2 :]


def events(body: bytes) -> list[str]:
    """Return the data of the whole events of a stream that have any."""
    found = []
    for event in body.decode().replace("\r\n", "\n").split("\n\n")[:-1]:
        data = [line[5:].removeprefix(" ") for line in event.split("\n") if line.startswith("data:")]
        if any(data):
            found.append("\n".join(data))
    return found


class Definitions:
    """The definitions of one revision, found by what a message says."""

    def __init__(self, revision: str) -> None:
        schema = json.loads((SCHEMAS / f"{revision}.json").read_text())
        self.revision, self._dialect = revision, schema["$schema"]
        self._word = "$defs" if "$defs" in schema else "definitions"
        self._all: dict[str, Any] = schema[self._word]
        self._by_method = {
            definition["properties"]["method"]["const"]: name
            for name, definition in self._all.items()
            if "const" in definition.get("properties", {}).get("method", {})
        }
        self._by_code: dict[int, str] = {}
        for name, definition in self._all.items():
            for part in definition.get("properties", {}).get("error", {}).get("allOf", ()):
                code = part.get("properties", {}).get("code", {}).get("const")
                if code is not None:
                    self._by_code[code] = name

    def errors(self, name: str, value: object) -> list[str]:
        return [
            f"{name}: {error.message} at {error.instance_path}" for error in self._validator(name).iter_errors(value)
        ]

    @cache  # noqa: B019 - as many as there are revisions, for the whole run
    def _validator(self, name: str) -> Any:
        root = {"$schema": self._dialect, "$ref": f"#/{self._word}/{name}", self._word: self._all}
        if "draft-07" in self._dialect:
            root = {"$schema": self._dialect, "allOf": [{"$ref": root["$ref"]}], self._word: self._all}
        return jsonschema_rs.validator_for(root)

    def of_message(self, message: dict[str, Any], asked: str | None) -> list[str]:
        """Return what is wrong with a message that came in answer to the method `asked`."""
        if "method" in message:
            return self._of_method(message)
        if "error" in message:
            generic = "JSONRPCErrorResponse" if "JSONRPCErrorResponse" in self._all else "JSONRPCError"
            return self.errors(self._by_code.get(message["error"].get("code"), generic), message)
        if "result" not in message:
            return ["it is neither a request, a notification nor a response"]
        generic = "JSONRPCResultResponse" if "JSONRPCResultResponse" in self._all else "JSONRPCResponse"
        return self.errors(generic, message) + self._of_result(message["result"], asked)

    def _of_method(self, message: dict[str, Any]) -> list[str]:
        name = self._by_method.get(message["method"])
        if name is None:
            return [f"{self.revision} knows no {message['method']}"]
        if "id" in message and self.revision == MODERN:
            return [f"{self.revision} has no requests of servers, and this is {message['method']}"]
        if ("id" in message) != name.endswith("Request"):
            return [f"{message['method']} with an id, or without"]
        return self.errors(name, message)

    def _of_result(self, result: Any, asked: str | None) -> list[str]:
        request = self._by_method.get(asked or "", "")
        name = request.removesuffix("Request") + "Result" if request else "Result"
        if name not in self._all:
            name = "EmptyResult"
        if self.revision == MODERN and isinstance(result, dict) and result.get("resultType") == "input_required":
            name = "InputRequiredResult"
        return self.errors(name, result)


@cache
def definitions(revision: str) -> Definitions:
    return Definitions(revision)


class Tap:
    """What was wrong with the exchanges of some clients: one line each in `violations`."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.messages = 0
        self._sessions: dict[str, str] = {}
        self._asked: dict[str, str] = {}

    def exchange(self, sent: bytes, received: bytes) -> None:
        """Check the raw bytes of one HTTP request and of what came back, as far as it came."""
        request, response = Http.parse(sent), Http.parse(received)
        if request is None or response is None:
            return
        asked = _message(request.body)
        for text in _texts(response):
            self.messages += 1
            message = json.loads(text)
            for one in message if isinstance(message, list) else [message]:
                self._check(one, asked, request, response)

    def _check(self, message: dict[str, Any], asked: dict[str, Any], request: Http, response: Http) -> None:
        revision = self._revision(message, asked, request, response)
        method = asked.get("method")
        if "method" in asked and "id" in asked:
            self._asked[_key(asked["id"])] = asked["method"]
        elif "id" in message:  # a stream that is resumed
            method = self._asked.get(_key(message["id"]))
        wrong = []
        unread = response.status in UNREAD and "id" not in message
        answers = "method" not in message and _is_id(asked.get("id")) and not unread
        if answers and _key(message.get("id")) != _key(asked["id"]):
            wrong.append(f"it answers {message.get('id')!r} and was asked by {asked['id']!r}")
        if method == "subscriptions/listen" and "method" in message:
            given = message.get("params", {}).get("_meta", {}).get(SUBSCRIPTION_ID)
            if _key(given) != _key(asked["id"]):
                wrong.append(f"the subscription is {asked['id']!r}, not {given!r}")
        wrong += definitions(revision).of_message(message, method)
        self.violations += [f"{revision} {method}: {text} in {json.dumps(message)[:600]}" for text in wrong]

    def _revision(self, message: dict[str, Any], asked: dict[str, Any], request: Http, response: Http) -> str:
        params = asked.get("params")
        meta = params.get("_meta") if isinstance(params, dict) else None
        if isinstance(meta, dict) and META_VERSION in meta:
            return MODERN
        if asked.get("method") == "initialize" and "result" in message:
            version = message["result"].get("protocolVersion")
            self._sessions[response.headers.get("mcp-session-id", "")] = version
            return version if version in REVISIONS else LATEST_LEGACY
        version = request.headers.get("mcp-protocol-version")
        if version is None:
            version = self._sessions.get(request.headers.get("mcp-session-id", ""), LATEST_LEGACY)
        return version if version in REVISIONS else MODERN


def _message(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _texts(response: Http) -> list[str]:
    kind = response.headers.get("content-type", "").partition(";")[0]
    if kind == "text/event-stream":
        return events(response.body)
    return [response.body.decode()] if kind == "application/json" and response.complete else []


def _is_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _key(value: object) -> str:
    """Return an id so that 1 and "1" differ."""
    return json.dumps(value)
