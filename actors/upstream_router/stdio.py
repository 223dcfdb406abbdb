"""An MCP server over stdio: one process in a group of its own, many requests at once over its two pipes.

Requests are numbered anew, progress tokens too: several clients share the process, and may use the same ones.
(2026-07-28 and 2025-11-25, basic/transports/stdio.)
"""

import asyncio
import os
import secrets
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from mcpctl.actors.upstream_router.stdio_process import Process
from mcpctl.actors.upstream_router.stdio_rules import StdioRules
from mcpctl.bus.connection import Tasks
from mcpctl.bus.mcp_client import (
    CHANGES,
    Answer,
    McpTransportError,
    McpWireError,
    OnNotification,
    OnServerRequest,
    ServerInfo,
)
from mcpctl.bus.mcp_messages import (
    IMPLEMENTATION,
    INTERNAL_ERROR,
    LEGACY,
    METHOD_NOT_FOUND,
    MODERN,
    MODERN_MEMBERS,
    UNSUPPORTED_VERSION,
    Envelope,
    decode_envelope,
    decode_fields,
    decode_params,
    decode_value,
    encode,
    error_body,
    response,
    with_meta,
)

log = structlog.get_logger()

Notify = Callable[[str, bytes], None]

LONGEST_SAID = 8192
"""Bytes that are heard of a line on stderr."""

SAYING = 4 << 20
"""Bytes of stderr that are read in a second at the most; a process that writes more waits."""

SAID_AT_ONCE, SAID_PAUSE = 500, 0.1
"""Lines of stderr that are read before others have their turn, and for how many seconds."""

TURN = 65536
"""Bytes of stdout that are read before others have their turn."""

ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"

PROBE_SECONDS = 3.0
STOP_SECONDS = 2.0
LAST_WORDS = 0.5
"""Seconds that a process's children may keep its stderr open after its end."""

KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "USER", "SYSTEMROOT")


@dataclass
class Pending:
    """A request that waits for its answer."""

    answer: asyncio.Future[Answer]
    notify: Notify | None
    progress: bytes | None
    ask: OnServerRequest | None
    owner: str
    standing: bool = False
    """Whether it is no call, but waits for changes."""


class StdioClient:
    """Speaks to one process. Once it has ended, `alive` is false and the client is of no more use.

    `say` gets each line that it writes to stderr, `redact` each message before it is read.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        env: Mapping[str, str],
        say: Callable[[str], None],
        rules: StdioRules,
        *,
        capabilities: bytes = b"{}",
        redact: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._command, self._env, self._say, self._rules = command, env, say, rules
        self._redact = redact
        self._capabilities = capabilities
        self.on_change: OnNotification | None = None
        """Hears of every change that the server announces, whichever request it came with."""

        self._pending: dict[int, Pending] = {}
        self._next_id = 0
        self._abandoned = False
        """Whether a request was given up since the last time that none was pending."""
        self._tasks = Tasks()
        self._process: Process | None = None
        self._fault = ""
        self._mark = f"MCPCTL_STDIO={secrets.token_hex(16)}"
        """In the environment of the process, and of all that it starts."""

        self.ended = asyncio.Event()
        self.server: ServerInfo | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def connect(self, *, timeout: float, era: Literal["auto", "legacy"] = "auto") -> ServerInfo:
        """Start the process and agree on a revision; with `legacy` the handshake is tried first.

        Raises `McpTransportError`, `McpWireError`.
        """
        program = self._rules.program(self._command, self._env)
        environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
        name, _, value = self._mark.partition("=")
        read, write = os.pipe()  # of its own: asyncio would keep as much of stderr as of stdout
        try:
            self._process = await Process.start(
                program,
                *self._command[1:],
                stderr=write,
                env=environment | dict(self._env) | {name: value},
                longest=self._rules.longest,
                limit=self._rules.limit,
            )
        except OSError as error:
            os.close(read)
            raise McpTransportError(f"{self._command[0]} cannot be started: {error.strerror}", sent=False) from error
        finally:
            os.close(write)
        listening = self._tasks.start(self._read_stderr(read))
        self._tasks.start(self._attend(self._process, self._tasks.start(self._read()), listening))
        try:
            async with asyncio.timeout(timeout):
                self.server = await self._negotiate(era)
        except TimeoutError as error:
            await self.close()
            raise McpTransportError(f"no answer to initialize within {timeout:.3g} s", sent=False) from error
        except BaseException:
            await self.close()
            raise
        return self.server

    async def _negotiate(self, era: Literal["auto", "legacy"]) -> ServerInfo:
        answer = Answer(result=None, error=b"{}")
        if era == "auto":
            with suppress(TimeoutError):  # a legacy server may not answer before initialize
                async with asyncio.timeout(PROBE_SECONDS):
                    answer = await self._ask("server/discover", b'{"_meta":{' + MODERN_MEMBERS + b"}}")
        if answer.result is not None:
            return ServerInfo(era="modern", version=MODERN, result=answer.result)
        if _only_newer(answer.error or b"{}"):
            raise McpWireError("the server speaks no MCP revision that is known here")
        hello = {
            "protocolVersion": LEGACY[0],
            "capabilities": msgspec.Raw(self._capabilities),
            "clientInfo": msgspec.Raw(IMPLEMENTATION),
        }
        answer = await self._ask("initialize", encode(hello))
        if answer.result is None and _serves_modern(answer.error or b"{}"):
            # It was slow to start, and has read the probe that nobody waits for any more: that decided its era.
            answer = await self._ask("server/discover", b'{"_meta":{' + MODERN_MEMBERS + b"}}")
            if answer.result is not None:
                return ServerInfo(era="modern", version=MODERN, result=answer.result)
        if answer.result is None:
            raise McpWireError("the server refused initialize")
        version = str(decode_value(answer.result).get("protocolVersion"))
        if version not in LEGACY:
            raise McpWireError(f"the server answered initialize with the unknown revision {version!r}")
        await self._write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        return ServerInfo(era="legacy", version=version, result=answer.result)

    async def request(
        self,
        method: str,
        params: bytes | None,
        *,
        name: str | None = None,  # noqa: ARG002 - a header of the other transport
        on_notification: Notify | None = None,
        on_server_request: OnServerRequest | None = None,
        owner: str = "",
        timeout: float,
        extra_headers: Mapping[str, str] | None = None,  # noqa: ARG002 - as `name`
    ) -> Answer:
        """Ask and return the answer. Cancelling the awaiting task cancels the request at the server.

        `on_server_request` gets the method and message of a handshake server's request; if it returns True the caller
        sends the answer by respond(), otherwise the request is refused. Nothing in such a request says to which of
        ours it belongs: it is given to the latest of those at hand, if they all have one `owner`.

        Raises `McpTransportError` where the process ends or `timeout` seconds pass.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._ask(method, params, on_notification, on_server_request, owner)
        except TimeoutError as error:
            raise McpTransportError(f"no answer within {timeout:g} s", sent=True) from error

    async def notify(self, method: str, params: bytes | None) -> None:
        """Send a notification."""
        body = b',"params":' + params if params is not None else b""
        await self._write(b'{"jsonrpc":"2.0","method":"%s"%s}' % (method.encode(), body))

    async def respond(self, message: bytes) -> None:
        """Send the answer to a server's request: a whole JSON-RPC response."""
        await self._write(message)

    async def _ask(
        self,
        method: str,
        params: bytes | None,
        notify: Notify | None = None,
        ask: OnServerRequest | None = None,
        owner: str = "",
    ) -> Answer:
        self._next_id += 1
        number = self._next_id
        token = None
        if params is not None and b'"progressToken"' in params:
            meta = decode_params(params).meta
            token = bytes(meta.progress) if meta and meta.progress else None
            if token is not None:
                params = with_meta(params, b'"progressToken":%d' % number, has_meta=True)
        standing = method == "subscriptions/listen"
        pending = Pending(asyncio.get_running_loop().create_future(), notify, token, ask, owner, standing)
        self._pending[number] = pending
        try:
            head = b'{"jsonrpc":"2.0","id":%d,"method":"%s"' % (number, method.encode())
            await self._write(head + (b',"params":' + params if params is not None else b"") + b"}")
            return await pending.answer
        except asyncio.CancelledError:
            self._abandoned = True
            if method != "initialize":  # which must not be cancelled (2025-11-25, basic/utilities/cancellation)
                cancel = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d}}\n' % number
                self._write_now(cancel)  # not waited for: a server that does not read would hold the caller
            raise
        finally:
            self._pending.pop(number, None)
            if not self._calls():
                self._abandoned = False

    async def _write(self, message: bytes) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            raise McpTransportError(self._ended(), sent=False)
        if b"\n" in message or b"\r" in message:  # valid between JSON tokens, but here a line is a message
            message = msgspec.json.format(message, indent=-1)
        try:
            process.stdin.write(message + b"\n")
            await process.stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            with suppress(TimeoutError):  # its pipe is closed before it has an exit status
                async with asyncio.timeout(LAST_WORDS):
                    await process.exited.wait()
            raise McpTransportError(self._ended(), sent=False) from error

    def _write_now(self, line: bytes) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with suppress(ConnectionError, RuntimeError):
                process.stdin.write(line)

    async def _read(self) -> None:
        assert self._process is not None  # noqa: S101 - set before the start
        taken = 0
        try:
            while line := await self._process.stdout.readline():
                if line.strip():
                    self._take(line)
                taken += len(line)
                if taken > TURN:
                    taken = 0
                    await asyncio.sleep(0)  # what is in the buffer is read without waiting
        except ValueError:
            self._kill(f"a line of its output is longer than {self._rules.longest} bytes")

    async def _attend(self, process: Process, *reading: "asyncio.Task[None]") -> None:
        """Wait for the end of the process, or of its output: without that it is of no use. Fail what waits for it."""
        ending = asyncio.create_task(process.exited.wait())
        try:
            await asyncio.wait({ending, reading[0]}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({ending}, timeout=STOP_SECONDS)
            if not ending.done():
                self._kill("it closed its output")
                await ending
            await asyncio.wait(reading, timeout=LAST_WORDS)
            self._signal(signal.SIGKILL)  # what is left of the group may hold the pipes open
        finally:
            ending.cancel()
            self.ended.set()
            self._say(f"({self._ended()})")
            log.info("stdio server ended", command=self._command[0])
            for pending in self._pending.values():
                if not pending.answer.done():
                    pending.answer.set_exception(McpTransportError(self._ended(), sent=True))

    def _kill(self, reason: str) -> None:
        self._fault = self._fault or reason
        log.warning("stdio server killed", command=self._command[0], reason=reason)
        self._signal(signal.SIGKILL)

    def _take(self, line: bytes) -> None:
        try:
            if self._redact is not None:
                line = self._redact(line)
            self._dispatch(decode_envelope(line), line)
        except (ValueError, RecursionError):  # msgspec's errors are among these
            log.debug("line on stdout is not JSON-RPC", command=self._command[0])

    def _dispatch(self, message: Envelope, line: bytes) -> None:
        if message.method and message.id is not msgspec.UNSET:
            self._take_request(message.method, bytes(message.id), line.strip())
        elif message.method:
            self._deliver(message.method, message, line.strip())
        elif message.id is not msgspec.UNSET:
            self._resolve(message)

    def _resolve(self, message: Envelope) -> None:
        number = bytes(message.id or b"")
        pending = self._pending.get(int(number)) if number.isdigit() else None
        if pending is None or pending.answer.done():
            return
        if message.result:
            pending.answer.set_result(Answer(result=bytes(message.result), error=None))
        elif message.error and bytes(message.error).startswith(b"{"):
            pending.answer.set_result(Answer(result=None, error=bytes(message.error)))
        else:
            pending.answer.set_exception(McpWireError("the server's answer is neither a result nor an error"))

    def _deliver(self, method: str, message: Envelope, line: bytes) -> None:
        if method in CHANGES:
            if self.on_change is not None:
                self.on_change(method, line)
        elif method == ACKNOWLEDGED and message.params:
            self._acknowledge(method, bytes(message.params), line)
        elif method == "notifications/progress" and message.params:
            params = decode_fields(message.params)
            number = bytes(params.get("progressToken", b""))
            pending = self._pending.get(int(number)) if number.isdigit() else None
            if pending is None or pending.notify is None or pending.progress is None:
                return
            params["progressToken"] = msgspec.Raw(pending.progress)
            pending.notify(
                method,
                b'{"jsonrpc":"2.0","method":"notifications/progress","params":' + encode(params) + b"}",
            )
        elif len(calls := self._calls()) == 1 and not self._abandoned:
            # Nothing in it says to which request a log line belongs: with one at hand, and none that was given up
            # but may still be worked on, it can be no other.
            (pending,) = calls
            if pending.notify is not None:
                pending.notify(method, line)

    def _calls(self) -> list[Pending]:
        return [pending for pending in self._pending.values() if not pending.standing]

    def _acknowledge(self, method: str, params: bytes, line: bytes) -> None:
        """Pass the acknowledgement of a `subscriptions/listen` on to who asked for it."""
        number = bytes(decode_fields(decode_fields(params).get("_meta", msgspec.Raw(b"{}"))).get(SUBSCRIPTION_ID, b""))
        pending = self._pending.get(int(number)) if number.isdigit() else None
        if pending is not None and pending.notify is not None:
            pending.notify(method, line)

    def _take_request(self, method: str, request_id: bytes, line: bytes) -> None:
        if method == "ping":
            self._answer_request(response(request_id, result=b"{}"))
            return
        pending = self._calls()
        owners = {request.owner for request in pending}
        ask = pending[-1].ask if pending and (len(pending) == 1 or (len(owners) == 1 and "" not in owners)) else None
        if ask is not None and ask(method, line):
            return
        if ask is None and any(request.ask for request in pending):
            text = "several clients share this process, and nothing says which of them is asked"
            self._answer_request(response(request_id, error=error_body(INTERNAL_ERROR, text)))
        else:
            self._answer_request(response(request_id, error=error_body(METHOD_NOT_FOUND, "Method not found")))

    def _answer_request(self, message: bytes) -> None:
        if self._tasks.full:
            self._kill("it sends more requests than it takes answers")
            return
        self._tasks.start(self._tell(message))

    async def _tell(self, message: bytes) -> None:
        with suppress(McpTransportError):
            await self._write(message)

    async def _read_stderr(self, descriptor: int) -> None:
        reader = asyncio.StreamReader(limit=TURN)
        pipe = os.fdopen(descriptor, "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        rest = b""
        try:
            said = 0
            while chunk := await reader.read(TURN):
                *lines, rest = (rest + chunk).split(b"\n")
                rest = rest[:LONGEST_SAID]  # whatever comes until the line ends
                for line in lines:
                    self._say(line[:LONGEST_SAID].decode(errors="replace").rstrip())
                    said += 1
                    if said % SAID_AT_ONCE == 0:
                        await asyncio.sleep(SAID_PAUSE)
                await asyncio.sleep(len(chunk) / SAYING)
            if rest:
                self._say(rest.decode(errors="replace").rstrip())
        finally:
            transport.close()

    def _ended(self) -> str:
        # What it said on stderr is for operators: it may hold secrets, and callers read this text.
        if self._fault:
            return f"the process was ended: {self._fault}"
        return f"the process ended (exit status {self._process.returncode if self._process is not None else None})"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and not self.ended.is_set():  # its number may be another's after that
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    async def close(self) -> None:
        """End the process: close its input, then SIGTERM, then SIGKILL to its whole group."""
        process = self._process
        if process is None:
            return
        process.stdin.close()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                self._signal(number)
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.exited.wait()
                    break
            except TimeoutError:
                continue
        self._signal(signal.SIGKILL)  # what the process itself has left behind
        kill_marked(self._mark)
        await self._tasks.finish(STOP_SECONDS)
        process.close()


def kill_marked(mark: str) -> None:
    """Kill what has left the group of a process, and has its environment still (on Linux)."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


def _only_newer(error: bytes) -> bool:
    """Tell whether an error says that only revisions are served of which none is known here."""
    served = _revisions_served(error)
    return served is not None and not set(served) & {MODERN, *LEGACY}


def _serves_modern(error: bytes) -> bool:
    return MODERN in (_revisions_served(error) or ())


def _revisions_served(error: bytes) -> list[str] | None:
    """Return the revisions that an error names as those that are served; None where it is about something else."""
    fault = decode_value(error)
    if not isinstance(fault, dict) or fault.get("code") != UNSUPPORTED_VERSION:
        return None
    data = fault.get("data")
    supported = data.get("supported") if isinstance(data, dict) else None
    return [str(revision) for revision in supported] if isinstance(supported, list) else None
