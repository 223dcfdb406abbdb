"""A model that speaks OpenAI's chat completions over real HTTP, and says what its script makes it say.

In a test: `async with ChatModel(choosing("rollback")) as model:`, then `model.base_url` and `model.requests`; another
`model.script` counts from the next request on. As a process, from the root of the repository:
`python -m tests.upstreams.chat_model choosing rollback canary` prints its port on the first line.
"""

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable

from tests.upstreams.raw_http import Peer, Request, serving, whole

Script = Callable[[Peer, Request], Awaitable[None]]
"""Answers one request. When it returns, the next one on the connection is read."""


class ChatModel:
    """`requests` are those that came; `hung_up` is set when a client has closed a connection."""

    def __init__(self, script: Script | None = None):
        self.script = script or choosing()

    async def __aenter__(self):
        self._serving = serving(self._converse)
        self._server = await self._serving.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self._serving.__aexit__(*error)

    @property
    def port(self) -> int:
        return self._server.parsed.port

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def requests(self) -> list[Request]:
        return self._server.requests

    @property
    def questions(self) -> list[dict]:
        """What was asked each time: `index` and `task`."""
        return [question(request) for request in self.requests]

    @property
    def hung_up(self) -> asyncio.Event:
        return self._server.hung_up

    async def _converse(self, peer):
        while (request := await peer.request()) is not None:
            await self.script(peer, request)


def question(request: Request) -> dict:
    return json.loads(request.message["messages"][-1]["content"])


def completion(content: str | None, *, refusal: str | None = None, finish_reason: str = "stop") -> bytes:
    """Return a whole answer in which the model says `content`."""
    message = {"role": "assistant", "content": content, "refusal": refusal}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    said = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
    return json.dumps({**said, "choices": [choice], "usage": usage}).encode()


# --- scripts ---


def answering(body: bytes, *, status: str = "200 OK", kind: str = "application/json", more: str = "") -> Script:
    """Answer with these bytes."""
    return sending(whole(body, status=status, kind=kind, more=more))


def sending(data: bytes) -> Script:
    """Send these bytes, whether they are HTTP or not, and keep the connection open."""

    async def script(peer, request):
        await peer.send(data)

    return script


def saying(content: str | None, **more: str) -> Script:
    """Answer with a completion in which the model says this text."""
    return answering(completion(content, **more))


def choosing(*names: str) -> Script:
    """Choose these prompts, as a model should."""
    return saying(json.dumps({"prompts": names}))


def deciding(pick: Callable[[dict], list[str]]) -> Script:
    """Choose by the question: `pick` is given `index` and `task`."""

    async def script(peer, request):
        await choosing(*pick(question(request)))(peer, request)

    return script


def refusing() -> Script:
    return saying(None, refusal="I cannot help with that.")


def failing(status: str = "500 Internal Server Error") -> Script:
    return answering(b'{"error":{"message":"no"}}', status=status)


def redirecting(to: str, status: str = "307 Temporary Redirect") -> Script:
    return answering(b"", status=status, more=f"Location: {to}\r\n")


def oversized(size: str | int = 1_000_000) -> Script:
    """Choose nothing, at great length."""
    return saying('{"prompts": []}' + " " * int(size))


def echoing(status: str = "200 OK") -> Script:
    """Say the client's own Authorization header, wherever a server can: in status line, headers and content."""

    async def script(peer, request):
        said = request.headers.get("authorization", "none")
        answer = whole(completion(f"You sent {said}"), status=f"{status} {said}", more=f"X-Echo: {said}\r\n")
        await peer.send(answer)

    return script


def late(seconds: str | float, then: Script | None = None) -> Script:
    """Answer after so many seconds."""

    async def script(peer, request):
        await asyncio.sleep(float(seconds))
        await (then or choosing())(peer, request)

    return script


def hanging() -> Script:
    """Never answer."""

    async def script(peer, request):
        await peer.until_hung_up()

    return script


def dripping(every: str | float = 0.02) -> Script:
    """Answer without an end, a byte at a time."""

    async def script(peer, request):
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n{")
        while not peer.writer.is_closing():
            await asyncio.sleep(float(every))
            await peer.send(b" ")

    return script


SCRIPTS = {
    each.__name__: each for each in (choosing, saying, refusing, failing, oversized, echoing, late, hanging, dripping)
}


async def main(script: Script) -> None:
    async with ChatModel(script) as model:
        print(model.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("script", choices=SCRIPTS)
    parser.add_argument("values", nargs="*")
    given = parser.parse_args()
    asyncio.run(main(SCRIPTS[given.script](*given.values)))
