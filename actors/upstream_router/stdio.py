"""An MCP server over stdio: one process in a group of its own, many requests at once over its two pipes.

Requests are numbered anew, progress tokens too: several clients share the process, and may use the same ones.
(2026-07-28 and 2025-11-25, basic/transports/stdio.)
"""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import structlog

from mcpctl.bus.connection import Tasks
from mcpctl.bus.mcp_client import Answer, McpTransportError, McpWireError, ServerInfo
from mcpctl.bus.mcp_messages import (
    IMPLEMENTATION,
    LEGACY,
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
from mcpctl.bus.process import die_with_parent

log = structlog.get_logger()

Notify = Callable[[str, bytes], None]

LONGEST_LINE = 64 * 1024 * 1024
LONGEST_SAID = 8192
"""Bytes that are heard of a line on stderr."""

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


class StdioClient:
    """Speaks to one process. Once it has ended, `alive` is false and the client is of no more use.

    `say` gets each line that it writes to stderr.
    """

    def __init__(self, command: tuple[str, ...], env: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._command, self._env, self._say = command, env, say
        self._pending: dict[int, Pending] = {}
        self._next_id = 0
        self._abandoned = False
        """Whether a request was given up since the last time that none was pending."""
        self._tasks = Tasks()
        self._process: asyncio.subprocess.Process | None = None
        self.server: ServerInfo | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def connect(self, *, timeout: float) -> ServerInfo:
        """Start the process and agree on a revision. Raises `McpTransportError`, `McpWireError`."""
        environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment | dict(self._env),
                limit=LONGEST_LINE,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            raise McpTransportError(f"{self._command[0]} cannot be started: {error.strerror}", sent=False) from error
        self._tasks.start(self._read(self._tasks.start(self._read_stderr())))
        try:
            async with asyncio.timeout(timeout):
                self.server = await self._negotiate()
        except TimeoutError as error:
            await self.close()
            raise McpTransportError(f"no answer to initialize within {timeout:.0f} s", sent=False) from error
        except BaseException:
            await self.close()
            raise
        return self.server

    async def _negotiate(self) -> ServerInfo:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                answer = await self._ask("server/discover", b'{"_meta":{' + MODERN_MEMBERS + b"}}")
        except TimeoutError:
            answer = Answer(result=None, error=b"{}")  # a legacy server may not answer before initialize
        if answer.result is not None:
            return ServerInfo(era="modern", version=MODERN, result=answer.result)
        if _only_newer(answer.error or b"{}"):
            raise McpWireError("the server speaks no MCP revision that is known here")
        hello = {"protocolVersion": LEGACY[0], "capabilities": {}, "clientInfo": msgspec.Raw(IMPLEMENTATION)}
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
        timeout: float,
    ) -> Answer:
        """Ask and return the answer. Cancelling the awaiting task cancels the request at the server.

        Raises `McpTransportError` where the process ends or `timeout` seconds pass.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._ask(method, params, on_notification)
        except TimeoutError as error:
            raise McpTransportError(f"no answer within {timeout:g} s", sent=True) from error

    async def _ask(self, method: str, params: bytes | None, notify: Notify | None = None) -> Answer:
        self._next_id += 1
        number = self._next_id
        token = None
        if params is not None and b'"progressToken"' in params:
            meta = decode_params(params).meta
            token = bytes(meta.progress) if meta and meta.progress else None
            if token is not None:
                params = with_meta(params, b'"progressToken":%d' % number, has_meta=True)
        pending = Pending(asyncio.get_running_loop().create_future(), notify, token)
        self._pending[number] = pending
        try:
            head = b'{"jsonrpc":"2.0","id":%d,"method":"%s"' % (number, method.encode())
            await self._write(head + (b',"params":' + params if params is not None else b"") + b"}")
            return await pending.answer
        except asyncio.CancelledError:
            self._abandoned = True
            cancel = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d}}\n' % number
            self._write_now(cancel)  # not waited for: a server that does not read would hold the caller
            raise
        finally:
            self._pending.pop(number, None)
            if not self._pending:
                self._abandoned = False

    async def _write(self, message: bytes) -> None:
        process = self._process
        if process is None or process.stdin is None or process.returncode is not None:
            raise McpTransportError(self._ended(), sent=False)
        if b"\n" in message or b"\r" in message:  # valid between JSON tokens, but here a line is a message
            message = msgspec.json.format(message, indent=-1)
        try:
            process.stdin.write(message + b"\n")
            await process.stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            raise McpTransportError(self._ended(), sent=False) from error

    def _write_now(self, line: bytes) -> None:
        process = self._process
        if process is not None and process.stdin is not None and process.returncode is None:
            with suppress(ConnectionError, RuntimeError):
                process.stdin.write(line)

    async def _read(self, listening: "asyncio.Task[None]") -> None:
        assert self._process is not None and self._process.stdout is not None  # noqa: PT018, S101 - set before the start
        try:
            while line := await self._process.stdout.readline():
                if line.strip():
                    self._take(line)
        except ValueError:
            log.warning("stdio server killed: a line of its output is too long", command=self._command[0])
            self._signal(signal.SIGKILL)
        finally:
            with suppress(asyncio.CancelledError):
                await self._process.wait()
                await asyncio.wait({listening}, timeout=LAST_WORDS)
            self._say(f"({self._ended()})")
            log.info("stdio server ended", command=self._command[0])
            for pending in self._pending.values():
                if not pending.answer.done():
                    pending.answer.set_exception(McpTransportError(self._ended(), sent=True))

    def _take(self, line: bytes) -> None:
        try:
            self._dispatch(decode_envelope(line), line)
        except (ValueError, RecursionError):  # msgspec's errors are among these
            log.debug("line on stdout is not JSON-RPC", command=self._command[0])

    def _dispatch(self, message: Envelope, line: bytes) -> None:
        if message.method and message.id is not msgspec.UNSET:
            self._tasks.start(self._answer_request(message))
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
        if method == "notifications/progress" and message.params:
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
        elif len(self._pending) == 1 and not self._abandoned:
            # Nothing in it says to which request a log line belongs: with one at hand, and none that was given up
            # but may still be worked on, it can be no other.
            (pending,) = self._pending.values()
            if pending.notify is not None:
                pending.notify(method, line)

    async def _answer_request(self, message: Envelope) -> None:
        request_id = bytes(message.id or b"null")
        with suppress(McpTransportError):
            if message.method == "ping":
                await self._write(response(request_id, result=b"{}"))
            else:
                await self._write(response(request_id, error=error_body(-32601, "this client answers no requests")))

    async def _read_stderr(self) -> None:
        assert self._process is not None and self._process.stderr is not None  # noqa: PT018, S101 - set before the start
        rest = b""
        while chunk := await self._process.stderr.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[:LONGEST_SAID]  # whatever comes until the line ends
            for line in lines:
                self._say(line[:LONGEST_SAID].decode(errors="replace").rstrip())
        if rest:
            self._say(rest.decode(errors="replace").rstrip())

    def _ended(self) -> str:
        # What it said on stderr is for operators: it may hold secrets, and callers read this text.
        return f"the process ended (exit status {self._process.returncode if self._process is not None else None})"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    async def close(self) -> None:
        """End the process: close its input, then SIGTERM, then SIGKILL to its whole group."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                self._signal(number)
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
                    break
            except TimeoutError:
                continue
        self._signal(signal.SIGKILL)  # what the process itself has left behind
        await self._tasks.finish(STOP_SECONDS)


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
