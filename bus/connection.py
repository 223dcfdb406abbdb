"""The bus as the parts see it: call, serve, publish, listen, ready, close.

What is awkward about NATS and nats-py is dealt with here and nowhere else (seen on nats-py 2.16 with
nats-server 2.15): callbacks run one at a time per subscription; `subscribe()` returns before the server
knows of it; `drain()` does not wait for tasks; a protocol error closes the client for good.
"""

import asyncio
import random
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport, WebSocketTransport
from nats.errors import ConnectionClosedError, Error, MaxPayloadError, NoRespondersError, NoServersError
from nats.errors import TimeoutError as NatsTimeoutError
from pydantic import ValidationError

from mcpctl.bus import measured, metrics
from mcpctl.bus.context import committing, note_committed, remaining, request_context, traceparent
from mcpctl.bus.contract import Call, Committed, Event, Message
from mcpctl.bus.errors import BadRequest, BusError, DeadlineExceeded, Internal, TooLarge, Unavailable
from mcpctl.bus.identity import INBOX, ActorIdentity, Identity, role_of, service_inbox
from mcpctl.bus.misuse import CALLER_MISMATCH, Misuse, is_callers_own
from mcpctl.bus.moving import Move, abort
from mcpctl.bus.nats_url import checked_url, is_websocket, must_encrypt, servers

log = structlog.get_logger()

ERROR_CODE = "Nats-Service-Error-Code"
ERROR_TEXT = "Nats-Service-Error"
BUDGET = "Mcpctl-Budget-Ms"
COMMITTED = "Mcpctl-Committed"
"""What the call has changed, on its answer: the epoch, the first number and the last."""
TRACE = "traceparent"

OLDEST_SERVER = (2, 14)
"""The oldest nats-server that keeps what is promised: earlier ones have known holes in their permissions."""

CONNECT_SECONDS = 8.0
"""For all steps of a connection together: nats-py bounds each, but not the handshake of a WebSocket."""

DRAIN_SECONDS = 2.0
PING_SECONDS = 0.7
"""Between two pings; the third that follows two without an answer ends the connection: after 1.4 s to 2.1 s."""

AGAIN = 1.0
"""Seconds after which what is repeatable is asked again, and in which an actor has moved to another server."""

PAUSE = 0.05

MUCH = 256 * 1024
"""Bytes that may wait for the socket before what is published waits too."""

FAREWELL = 0.05
"""Seconds to wait for the end of a connection that is given up."""

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
M = TypeVar("M", bound=Message)
T = TypeVar("T")


WITHOUT_TLS = (
    "it speaks no TLS, which is needed beyond this machine; "
    "MCPCTL_TLS=terminated-by-proxy says that something in front does"
)

Delivery = Msg
"""A message as it arrives: `subject`, `reply`, `data`, `headers`."""

Handler = Callable[[Q, str], Awaitable[R]]
"""Answers one call; the text is the asking connection's name, pinned by its NATS permissions."""


class Tasks:
    """Tasks that somebody holds: at most `limit` at once, awaited at the end."""

    def __init__(self, limit: int = 1024) -> None:
        self.limit = limit
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def full(self) -> bool:
        return len(self._running) >= self.limit

    @property
    def count(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("task failed", exc_info=task.exception())

    async def settle(self, patience: float) -> None:
        """Wait for the tasks that run now, `patience` seconds at the most."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=patience)

    async def finish(self, grace: float) -> None:
        """Wait `grace` seconds for the running tasks, then cancel what is left."""
        if self._running:
            await asyncio.wait(self._running, timeout=grace)
        await self.cancel()

    async def cancel(self) -> None:
        await cancel(*self._running)


async def cancel(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks and return when they have ended.

    Once is not enough: on Python 3.11 `asyncio.wait_for` swallows a cancellation that meets its result.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.1)
    await asyncio.gather(*tasks, return_exceptions=True)


async def run_together(*works: Coroutine[Any, Any, None]) -> None:
    """Run works side by side until the first fails or this is cancelled; all of them have ended then.

    What an `asyncio.TaskGroup` does, which however cancels its tasks only once: see `cancel`.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        await cancel(*tasks)


@contextmanager
def cancellation_kept() -> Iterator[None]:
    """Raise the cancellation that came in here, where what was awaited has swallowed it."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    yield
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


@contextmanager
def own_cancellation_only() -> Iterator[None]:
    """Go on where what was awaited has been cancelled, and this task has not."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    except asyncio.CancelledError:
        if task is None or task.cancelling() > before:
            raise


class _UnfitError(Error):
    """What answers is no bus that may be used."""


class Answered(Protocol):
    """What an answer is given to, as to a future."""

    def done(self) -> bool: ...

    def set_result(self, answer: Msg, /) -> None: ...


class _Client(Client):
    """nats-py's client, which can be cancelled, and sends no credential where it must not.

    Not before it is encrypted (over `tls://`, and to another machine), and not to a server that is too old.

    Its own `publish` swallows a cancellation, and so does (on Python 3.11) `asyncio.wait_for`, with which it asks, when
    the cancellation meets the answer: a revoked call would run on. And it asks the server's INFO, which comes in
    clear, whether to encrypt.
    """

    _resp_map: dict[str, Answered]  # type: ignore[assignment]  # nats-py's own are futures
    inline: dict[int, Callable[[Msg], Awaitable[None]]]
    """What is done with the messages of a subscription as they are read, by its number."""

    origin: tuple[list[str], dict[str, Any]]
    """The servers that were named, and who connects to them."""

    _back: "asyncio.Future[None] | None" = None
    """Done when a connection that was lost is there again: what was on its way over it may be lost too."""

    _write_is_due = False
    _moving: Move | None = None
    _leaving: "asyncio.Task[None] | None" = None

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002
        scheme = self._current_server.uri.scheme if self._current_server else ""
        if initial_connection:
            if version_of(str(info.get("version"))) < OLDEST_SERVER:
                oldest = ".".join(map(str, OLDEST_SERVER))
                raise _UnfitError(f"it is nats-server {info.get('version')}, and {oldest} is the oldest that is safe")
            if self._encrypted and not (info.get("tls_required") or info.get("tls_available")):
                raise _UnfitError(WITHOUT_TLS)
        if scheme == "tls" or self._encrypted:
            self._server_info["tls_required"] = True
        # Of a WebSocket nats-py would go on with the others by nats://, in clear; and who names servers means those.
        if is_websocket(f"{scheme}://") or self.options["named"]:
            info = {name: value for name, value in info.items() if name != "connect_urls"}
        await super()._process_info(info, initial_connection)
        if info.get("ldm") and not initial_connection and self._moving is None and self.options["allow_reconnect"]:
            self._leaving = asyncio.create_task(self._leave())

    async def _leave(self) -> None:
        """Go to another server before this one ends, if one can be had; else nats-py does it when it has ended."""
        here = self._current_server.uri.geturl() if self._current_server else ""
        elsewhere = [url for url in self.origin[0] if url != here]
        if elsewhere:
            try:
                await self.move(elsewhere)
            except Unavailable as error:
                log.warning("not moved to another server of the bus", error=str(error))
            else:
                log.info("moved to another server of the bus")

    async def move(self, urls: list[str]) -> None:
        """Take another connection over, to the first of these servers that can be had; what runs goes on.

        The credential is read anew for it. Raises `Unavailable`: then nothing has changed.
        """
        if self._moving is not None:
            raise Unavailable("the connection is being moved already")
        following = await self._connected_to(urls)
        self._moving = Move(self, following)
        try:
            moved = await self._moving.make()
        except (Error, OSError, TimeoutError) as error:
            await following.close()
            raise Unavailable(f"the second connection was lost ({_say(error)})") from error
        finally:
            self._moving = None
        if not moved:
            await following.close()
            raise Unavailable("the bus was lost meanwhile")

    async def _connected_to(self, urls: list[str]) -> "_Client":
        all_urls, options = self.origin
        for tried, url in enumerate(urls, 1):
            try:
                return await _connect_to(url, lambda: None, options, named=len(all_urls) > 1)
            except Unavailable:
                if tried == len(urls):
                    raise
        raise AssertionError

    async def take(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        """Take a message as the parser gives it, whichever connection it came by."""
        handle = self.inline.get(sid)
        if handle is None:
            await super()._process_msg(sid, subject, reply, data, headers or b"")
        elif sid in self._subs:
            self.stats["in_msgs"] += 1
            self.stats["in_bytes"] += len(data)
            read = await self._process_headers(headers) if headers else None
            try:
                await handle(self._build_message(sid, subject, reply, data, read))
            except Exception as error:  # noqa: BLE001 - as nats-py does with those of its own callbacks
                await self._error_cb(error)

    async def _process_msg(self, *arrived: Any) -> None:
        if self._moving is not None:
            self._moving.note(*arrived)
        await self.take(*arrived)

    async def _send_subscribe(self, sub: Subscription) -> None:
        await super()._send_subscribe(sub)
        if self._moving is not None:
            await self._moving.subscribe(sub)

    async def _send_unsubscribe(self, sid: int, limit: int = 0) -> None:
        await super()._send_unsubscribe(sid, limit)
        if self._moving is not None:
            await self._moving.unsubscribe(sid, limit)

    @property
    def _encrypted(self) -> bool:
        return self._current_server is not None and must_encrypt(self._current_server.uri.geturl())

    async def _process_connect_init(self) -> None:
        transport: Any = self._transport
        read, asked = transport.readline, 0

        async def readline() -> bytes:
            # While the auth callout is not answered the server's own PING may come, which nats-py takes for a yes.
            nonlocal asked
            asked += 1
            while (line := await read()).startswith(b"PING"):
                transport.write(b"PONG\r\n")
            return bytes(line)

        encrypt = transport.connect_tls

        async def connect_tls(*args: Any) -> None:
            await encrypt(*args)
            _end_with_tls(transport)

        transport.readline, transport.connect_tls = readline, connect_tls
        try:
            await super()._process_connect_init()
        except TimeoutError as error:
            _drop(transport)
            if asked < 2:  # the first is for the greeting
                raise
            raise Error("no answer to the authorization request") from error
        except BaseException:
            _drop(transport)  # nats-py forgets the connection of an attempt that was refused, and leaves it open
            raise
        finally:
            transport.readline, transport.connect_tls = read, encrypt

    async def _connect_to_server(self, server: Any) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await super()._connect_to_server(server)
        except BaseException:
            transport: Any = self._transport
            if isinstance(transport, WebSocketTransport):  # each attempt has a session of its own to close
                with suppress(Exception):
                    await transport.wait_closed()
            elif transport is not None:
                _drop(transport)
            raise

    async def _close(self, *args: Any, **kwargs: Any) -> None:
        if not self.is_connected:  # it would be sent all the same, to a WebSocket that may not be there
            self._pending, self._pending_data_size = [], 0
        self._be_quick()
        await super()._close(*args, **kwargs)

    async def _attempt_reconnect(self) -> None:
        self._be_quick()
        await super()._attempt_reconnect()
        if self._back is not None and not self._back.done():
            self._back.set_result(None)

    async def request_again(self, subject: str, payload: bytes, *, timeout: float, headers: dict[str, str]) -> Msg:
        """Ask what may be asked twice. Raises `TimeoutError` of nats-py also when the connection was made anew."""
        if self._back is None or self._back.done():
            self._back = asyncio.get_running_loop().create_future()
        back = self._back
        asking = asyncio.create_task(self.request(subject, payload, timeout=timeout, headers=headers))
        try:
            await asyncio.wait((asking, back), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise NatsTimeoutError
            return asking.result()
        finally:
            await cancel(asking)

    def _be_quick(self) -> None:
        """Wait a moment only for the end of a transport: TLS waits for the other side's farewell, for 30 seconds."""
        transport: Any = self._transport
        if transport is None:
            return
        wait = transport.wait_closed

        async def wait_closed() -> None:
            # It may have just cancelled its own reconnecting, which may have waited for the end of the same transport.
            with own_cancellation_only(), suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL):
                    await wait()
            abort(transport)

        transport.wait_closed = wait_closed

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        # Behind what waits to be written, so that its PONG says that the server has all of that.
        self._pongs.append(asyncio.Future() if future is None else future)
        await self._send_command(b"PING\r\n")
        await self._flush_pending()

    async def _flush_pending(self, force_flush: bool = False) -> None:  # noqa: FBT001, FBT002 - nats-py's signature
        if not force_flush and self._writes_at_once():
            if not self._write_is_due:
                self._write_is_due = True
                asyncio.get_running_loop().call_soon(self._write_pending)
            return
        with cancellation_kept():
            await super()._flush_pending(force_flush)

    def _writes_at_once(self) -> bool:
        """Tell whether what is pending may be written without waiting: nats-py's task does it some turns later."""
        transport: Any = self._transport
        if not self.is_connected or not isinstance(transport, TcpTransport):
            return False
        writer: Any = transport._io_writer  # noqa: SLF001 - it tells nowhere else how much waits
        return writer is not None and bool(writer.transport.get_write_buffer_size() < MUCH)

    def _write_pending(self) -> None:
        """Write all that was published in one turn of the loop."""
        self._write_is_due = False
        if self._pending and self._writes_at_once():
            pending, self._pending, self._pending_data_size = self._pending, [], 0
            transport: Any = self._transport
            with suppress(OSError, RuntimeError):  # it was lost, which its reader is told as well
                transport.writelines(pending)
        elif self._pending and self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    async def _init_request_sub(self) -> None:
        await super()._init_request_sub()
        self.inline[self._sid] = self._request_sub_callback  # whoever asked goes on a turn of the loop sooner

    async def hear_answers(self) -> None:
        """Hear the answers to what will be asked."""
        if not self._resp_sub_prefix:
            await self._init_request_sub()

    def ask(self, subject: str, payload: bytes, headers: bytes, answer: Answered) -> str:
        """Send a request now, and have its answer given to `answer`, until `forget` is called with what this returns.

        `headers` are whole lines. For what is asked often: without a task or a timer. Raises `Error` where it cannot be
        sent. Before, `hear_answers` must have been called.
        """
        if not self.is_connected or self._resp_sub_prefix is None:
            raise ConnectionClosedError
        headers = b"NATS/1.0\r\n%b\r\n" % headers
        length = len(headers) + len(payload)
        if length > self._max_payload:
            raise MaxPayloadError
        token = self._nuid.next().decode()
        self._resp_map[token] = answer
        to = (subject.encode(), bytes(self._resp_sub_prefix), token.encode())
        self._pending.append(b"HPUB %b %b%b %d %d\r\n%b%b\r\n" % (*to, len(headers), length, headers, payload))
        self._pending_data_size += length
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += length
        self._write_pending()
        return token

    def forget(self, token: str) -> None:
        """Wait for an answer no more."""
        self._resp_map.pop(token, None)

    async def publish_all(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Publish to subjects that are known to be good, if connected, at a fifth of what `publish` takes for each."""
        if not self.is_connected:
            return
        for subject, payload in messages:
            self.stats["out_msgs"] += 1
            self.stats["out_bytes"] += len(payload)
            await self._send_command(b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(payload), payload))
        await self._flush_pending()

    async def request(self, *args: Any, **kwargs: Any) -> Msg:
        with cancellation_kept():
            return await super().request(*args, **kwargs)


def _drop(transport: Any) -> None:
    """Close a connection that is not used, without waiting for a farewell: the other side may stand still."""
    with suppress(Exception):
        transport.close()
    abort(transport)


def _end_with_tls(transport: Any) -> None:
    """Have the other side's farewell end a connection that was encrypted midway, without a warning in the log.

    Its protocol was made for a connection in clear, nobody told it otherwise, and it asks to keep the half that is
    open: TLS has none (`asyncio.StreamWriter.start_tls`, which nats-py does not use, does tell it).
    """
    if not isinstance(transport, TcpTransport):
        return
    writer: Any = transport._io_writer  # noqa: SLF001 - it tells it nowhere else
    protocol = writer.transport.get_protocol()
    received = protocol.eof_received

    def eof_received() -> bool:
        received()
        return False

    protocol.eof_received = eof_received


def is_clustered(client: Client) -> bool:
    """Tell whether the server is one of a cluster: then what JetStream does not answer may be answered soon."""
    return bool(client._server_info.get("cluster"))  # noqa: SLF001 - it tells it nowhere else


def version_of(text: str) -> tuple[int, ...]:
    """Return the numbers of a server's version; none where it has none."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else ()


async def connect_nats(url: str, *, on_closed: Callable[[], None], **options: Any) -> _Client:
    """Connect to NATS, to any of the servers of `url`, with the intervals that notice a dead one in two seconds.

    When it is lost, the next of them is taken. `options` are nats-py's: who connects, and `tls`, which certificates are
    believed (else: those that the system trusts). Raises `Unavailable` where no server can be reached, or one refuses
    the connection.
    """
    try:
        urls = servers(checked_url(url))
    except ValueError as error:
        raise Unavailable(str(error)) from error
    random.shuffle(urls)
    for tried, first in enumerate(urls, 1):
        try:
            client = await _connect_to(first, on_closed, options, named=len(urls) > 1)
        except Unavailable as error:
            if error.final or tried == len(urls):
                raise
        else:
            if len(urls) > 1:
                client.set_server_pool([*urls[tried:], *urls[:tried]])  # the first is the next to try
            client.origin = (urls, options)
            return client
    raise AssertionError


async def _connect_to(url: str, on_closed: Callable[[], None], options: dict[str, Any], *, named: bool) -> _Client:
    client = _Client()
    client.inline = {}
    client.options = {"named": named}
    if must_encrypt(url) and url.startswith("ws://"):
        raise Unavailable(f"the bus at {url} cannot be used: {WITHOUT_TLS}")
    first_errors: list[Exception] = []

    async def closed() -> None:
        if client.options["allow_reconnect"]:
            on_closed()

    async def note(error: Exception) -> None:
        if not client.options["allow_reconnect"]:
            first_errors.append(error)
        elif not isinstance(error, ConnectionError | OSError | Error) or "permissions violation" in str(error).lower():
            log.warning("bus error", error=str(error) or repr(error))

    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await client.connect(
                url.split(","),
                closed_cb=closed,
                error_cb=note,
                connect_timeout=2,
                ping_interval=PING_SECONDS,  # type: ignore[arg-type]  # a fraction is taken, here and below
                max_outstanding_pings=2,
                reconnect_time_wait=0.05,  # type: ignore[arg-type]
                dont_randomize=True,  # in turn: the one that was lost comes last
                max_reconnect_attempts=1,
                allow_reconnect=False,
                **options,
            )
    except (NoServersError, NatsTimeoutError, OSError, Error) as error:
        cause = first_errors[-1] if first_errors else error
        # An AssertionError where it did not get as far as a connection; for ever after a failed handshake of TLS.
        with suppress(Error, OSError, AssertionError):
            async with asyncio.timeout(0.2):
                await client.close()
        text = f"the bus at {url} cannot be reached or refused the connection ({_say(cause)})"
        unavailable = Unavailable(text)
        unavailable.final = isinstance(cause, _UnfitError)
        raise unavailable from error
    # Only now: nats-py would try the first connection for ever too, also where it is refused for good.
    client.options |= {"allow_reconnect": True, "max_reconnect_attempts": -1}
    return client


def _say(error: Exception) -> str:
    text = str(error).removeprefix("nats: ")
    if untrusted := re.search(r"certificate verify failed: ([^(]*[^( ])", text):
        return f"its certificate is not trusted: {untrusted[1]}; name its CA with --ca or MCPCTL_NATS_CA"
    if "WRONG_VERSION_NUMBER" in text:
        return "it does not speak TLS there"
    if "Bad status line" in text:
        return "it speaks no WebSocket there"
    return " ".join(text.split()) or type(error).__name__


class Bus:
    """One part's connection to the account RPC."""

    def __init__(self, client: _Client, identity: Identity, closed: asyncio.Event) -> None:
        self.client, self.identity, self.closed = client, identity, closed
        self.caller = identity.caller
        self.tasks = Tasks()
        self.misuse = Misuse()
        self._subscriptions: list[Subscription] = []
        self._shares: list[Subscription] = []
        """The subscriptions whose messages go to one of a queue group."""
        metrics.watch(self)

    def measures(self) -> Iterator[metrics.Measured]:
        """Yield what metrics tell of this connection."""
        of = (self.identity.role,)
        yield measured.BUS_CONNECTED, float(self.client.is_connected), of
        yield measured.BUS_RECONNECTS, self.client.stats["reconnects"], of
        yield measured.BUS_PENDING, sum(each.pending_msgs for each in (*self._subscriptions, *self._shares)), of
        yield measured.BUS_TASKS, self.tasks.count, of
        yield measured.BUS_TASKS_MOST, self.tasks.limit, of

    @classmethod
    async def connect(
        cls, url: str, identity: Identity, *, patience: float = 0.0, tls: ssl.SSLContext | None = None
    ) -> Self:
        """Connect as `identity`, trying again for `patience` seconds while the bus is away."""
        closed = asyncio.Event()
        options = identity.options() | ({"tls": tls} if tls is not None else {})
        give_up = asyncio.get_running_loop().time() + patience
        while True:
            try:
                client = await connect_nats(url, on_closed=closed.set, **options)
                await client.hear_answers()
                break
            except Unavailable as error:
                if error.final or asyncio.get_running_loop().time() >= give_up:
                    raise
                await asyncio.sleep(0.1)
        return cls(client, identity, closed)

    async def call(self, call: Call[Q, R], request: Q, *, timeout: float | None = None) -> R:
        """Ask, again where that is safe, and return the answer.

        Raises the responder's `BusError`, or one that says why there is none.
        """
        budget = remaining(call.timeout if timeout is None else timeout)
        headers = {BUDGET: str(int(budget * 1000)), TRACE: traceparent()}
        subject, payload = call.subject(self.caller), request.model_dump_json().encode()
        clock = asyncio.get_running_loop().time
        begun = clock()
        while True:
            left = begun + budget - clock()
            try:
                if call.repeatable and is_clustered(self.client):
                    reply = await self.client.request_again(subject, payload, timeout=min(left, AGAIN), headers=headers)
                else:
                    patience = min(left, AGAIN) if call.repeatable else left
                    reply = await self.client.request(subject, payload, timeout=patience, headers=headers)
                break
            except NoRespondersError as error:
                # Nobody has it, so it may be sent again: to an actor that has just lost its own server, and moves.
                if not is_clustered(self.client) or clock() - begun + PAUSE > min(budget, AGAIN):
                    raise Unavailable(f"no {call.actor} actor answers on the bus") from error
                await asyncio.sleep(PAUSE)
            except NatsTimeoutError as error:
                if not call.repeatable or clock() - begun + PAUSE > budget:
                    raise DeadlineExceeded(f"{call.name} was not answered within {budget:.1f} s") from error
            except MaxPayloadError as error:
                raise TooLarge(f"the request to {call.name} is larger than a bus message may be") from error
            except (ConnectionClosedError, Error) as error:
                raise Unavailable(f"the bus is away ({_say(error)})") from error
        return self._read(call, reply)

    @staticmethod
    def _read(call: Call[Q, R], reply: Msg) -> R:
        code = (reply.headers or {}).get(ERROR_CODE)
        if code is not None:
            raise BusError.of(code, (reply.headers or {}).get(ERROR_TEXT, ""))
        committed = (reply.headers or {}).get(COMMITTED)
        try:
            if committed is not None:
                epoch, first, last = committed.split(" ")
                note_committed(Committed(actor=call.actor, epoch=epoch, first=int(first), last=int(last)))
            return call.reply.model_validate_json(reply.data)
        except ValueError as error:  # pydantic's are among these
            raise Internal(f"the answer to {call.name} is not one") from error

    async def send(self, subject: str, payload: bytes, *, reply: str = "") -> None:
        """Publish raw bytes. Raises `TooLarge`, and `Unavailable` where the bus is away."""
        if not self.client.is_connected:
            await self._moved()
        try:
            await self.client.publish(subject, payload, reply=reply)
        except MaxPayloadError as error:
            raise TooLarge("the message is larger than a bus message may be") from error
        except Error as error:
            raise Unavailable("the bus is away") from error

    async def _moved(self) -> None:
        """Return when the connection leads to another server of the cluster. Raises `Unavailable` where it does not."""
        give_up = asyncio.get_running_loop().time() + AGAIN
        while not self.client.is_connected:
            if not is_clustered(self.client) or self.client.is_closed or asyncio.get_running_loop().time() > give_up:
                raise Unavailable("the bus is away")
            await asyncio.sleep(PAUSE / 5)

    async def scatter(self, subject: str, *, patience: float) -> AsyncGenerator[bytes, None]:
        """Ask everybody, and yield the answers that come within `patience` seconds, which may be none."""
        answers: asyncio.Queue[bytes] = asyncio.Queue()

        async def take(msg: Delivery) -> None:
            if msg.data:
                answers.put_nowait(msg.data)

        inbox = service_inbox(self.caller)
        with suppress(Error, TimeoutError):
            subscription = await self.client.subscribe(inbox, cb=take)
            try:
                await self.client.publish(subject, b"", reply=inbox)
                async with asyncio.timeout(patience):
                    while True:
                        yield await answers.get()
            finally:
                await subscription.unsubscribe()

    async def ask_everyone(self, call: Call[Q, R], request: Q, *, patience: float, quiet: float = 0.3) -> list[R]:
        """Ask every replica, and return the answers, which may be none.

        They are waited for `patience` seconds, and after the first no longer than `quiet` seconds for each further one.
        Raises the `BusError` of a replica where none gave an answer.
        """
        answers: asyncio.Queue[Delivery] = asyncio.Queue()
        inbox = service_inbox(self.caller)
        headers = {BUDGET: str(int(call.timeout * 1000)), TRACE: traceparent()}
        found: list[R] = []
        refusal: BusError | None = None
        async with self.receiving(inbox, answers.put):
            try:
                payload = request.model_dump_json().encode()
                await self.client.publish(call.subject(self.caller), payload, reply=inbox, headers=headers)
            except Error as error:
                raise Unavailable(f"the bus is away ({_say(error)})") from error
            wait = patience
            while (msg := await _within(wait, answers)) is not None:
                status = (msg.headers or {}).get("Status")
                if status == "503":
                    break
                wait = quiet
                try:
                    found.append(self._read(call, msg))
                except BusError as error:
                    refusal = error
        if refusal is not None and not found:
            raise refusal
        return found

    async def serve(self, call: Call[Q, R], handler: Handler[Q, R]) -> None:
        """Answer a call from now on, as one of the actor's queue group."""

        async def answer(msg: Msg) -> None:
            if not is_callers_own(msg.subject, msg.reply):
                self.misuse.note(msg.subject)
                return
            if role_of(msg.subject.rpartition(".")[2]) not in call.asked_by:
                self.misuse.note(msg.subject, CALLER_MISMATCH)  # a gateway may publish to any router's subject
                return
            headers: dict[str, str] = {}
            body = b""
            try:
                with committing() as committed:
                    body = (await self._handle(call, handler, msg)).model_dump_json().encode()
                if own := [each for each in committed if each.actor == call.actor]:
                    headers[COMMITTED] = f"{own[-1].epoch} {own[0].first} {own[-1].last}"
            except BusError as error:
                headers = {
                    ERROR_CODE: error.code,
                    ERROR_TEXT: str(error).replace("\r", " ").replace("\n", " "),
                }
            with suppress(Error):
                await self.client.publish(msg.reply, body, headers=headers or None)

        await self.subscribe(call.subject("*"), answer, queue="" if call.everyone else call.actor)

    async def _handle(self, call: Call[Q, R], handler: Handler[Q, R], msg: Msg) -> R:
        sent = msg.headers or {}
        given = sent.get(BUDGET, "")
        budget = min(call.timeout, int(given) / 1000) if given.isdigit() else call.timeout
        try:
            request = call.request.model_validate_json(msg.data)
        except ValidationError as error:
            raise BadRequest(first_fault(error)) from error
        try:
            with request_context(budget, sent.get(TRACE)):
                async with asyncio.timeout(budget):
                    return await handler(request, msg.subject.rpartition(".")[2])
        except BusError:
            raise
        except TimeoutError as error:
            raise DeadlineExceeded(f"{call.name} took longer than {budget:.1f} s") from error
        except Exception as error:
            log.exception("handler failed", call=call.name)
            raise Internal("internal error; the actor's log has the details") from error

    async def subscribe(
        self, subject: str, handle: Callable[[Delivery], Coroutine[Any, Any, None]], *, queue: str = ""
    ) -> None:
        """Run `handle` in a task of its own for each message on a subject."""

        async def start(msg: Msg) -> None:
            if self.tasks.full:
                log.warning("message dropped: too many are being handled", subject=msg.subject)
                return
            self.tasks.start(handle(msg))

        await self.receive(subject, start, queue=queue)

    async def receive(
        self, subject: str, handle: Callable[[Delivery], Awaitable[None]], *, queue: str = "", inline: bool = False
    ) -> Callable[[], Awaitable[None]]:
        """Run `handle` for one message of a subject after the other: for what must keep its order, or be quick.

        With `inline` nothing else is read from the bus until it returns: it must not wait for an answer. Returns what
        ends this, once all that was delivered is handled.
        """
        subscription = await self.client.subscribe(subject, queue=queue, cb=handle)
        if inline:
            self.client.inline[subscription._id] = handle  # noqa: SLF001 - its number is told nowhere else
        (self._shares if queue else self._subscriptions).append(subscription)
        return partial(_drain, [subscription])

    @asynccontextmanager
    async def receiving(self, subject: str, handle: Callable[[Delivery], Awaitable[None]]) -> AsyncIterator[None]:
        """Run `handle` for one message of a subject after the other, inside of this only."""
        subscription = await self.client.subscribe(subject, cb=handle)
        try:
            yield
        finally:
            with suppress(Error):
                await subscription.unsubscribe()

    async def listen(self, event: Event[M], handle: Callable[[M], Awaitable[None]]) -> None:
        """Hear an event, in order."""

        async def receive(msg: Msg) -> None:
            await handle(event.message.model_validate_json(msg.data))

        await self.receive(event.subject, receive)

    async def ready(self) -> None:
        """Return when the server knows all subscriptions."""
        await self.client.flush()

    async def answered(self, patience: float) -> None:
        """Return when the answers to what is asked now have gone to the server, or after `patience` seconds."""
        await self.tasks.settle(patience)
        with suppress(Error, TimeoutError):
            async with asyncio.timeout(patience):
                await self.ready()

    async def renew(self) -> None:
        """Connect anew with the credential as it is now, beside the calls that run. Raises `Unavailable`."""
        client: Any = self.client
        await client.move(client.origin[0])

    async def leave(self) -> None:
        """Leave the queue groups: others get what comes next; what the server gave out before is taken still."""
        await _drain(self._shares)

    async def unsubscribe(self) -> None:
        """Take nothing more; answers to own calls still arrive."""
        await self.leave()
        await _drain(self._subscriptions)

    async def close(self, *, grace: float = 5.0) -> None:
        """Take no more requests, finish those at hand, disconnect."""
        await self.unsubscribe()
        await self.tasks.finish(grace)
        with suppress(Error, OSError, RuntimeError):  # uvloop's, where the server has closed it in this moment
            await self.client.close()


async def _drain(subscriptions: list[Subscription]) -> None:
    """End subscriptions once what was delivered to them is handled; a server that does not answer is not waited for."""
    ending = [subscription.drain() for subscription in subscriptions]
    subscriptions.clear()
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            await asyncio.gather(*ending, return_exceptions=True)


async def _within(seconds: float, answers: "asyncio.Queue[Delivery]") -> Delivery | None:
    try:
        async with asyncio.timeout(seconds):
            return await answers.get()
    except TimeoutError:
        return None


class Publisher:
    """An actor's connection to the account EVENTS, where it is the only writer of its events."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    @classmethod
    async def connect(cls, url: str, identity: ActorIdentity, on_closed: Callable[[], None]) -> Self:
        options = identity.options(f"{identity.role}-events")
        return cls(await connect_nats(url, on_closed=on_closed, **options))

    async def publish(self, event: Event[M], message: M) -> None:
        await self.publish_raw(event.subject, message.model_dump_json().encode())

    async def publish_raw(self, subject: str, payload: bytes) -> None:
        """Tell everybody; one who is away does not hear it, so what matters is also pulled."""
        with suppress(Error):
            await self._client.publish(subject, payload)

    async def publish_all(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Tell everybody of many things, in this order."""
        with suppress(Error):
            await self._client.publish_all(messages)

    async def flush(self) -> None:
        """Return when what was published is on its way to who listens: an answer that is sent next comes after it."""
        with suppress(Error, TimeoutError):
            await self._client.flush(timeout=1)

    async def close(self) -> None:
        with suppress(Error):
            await self._client.drain()


def first_fault(error: ValidationError) -> str:
    """Say in one line what is wrong with a message, and where: never with the value, which may be secret."""
    fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    text = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {text}" if where else text


__all__ = ["INBOX", "Bus", "Delivery", "Publisher", "Tasks", "cancel", "connect_nats", "first_fault", "run_together"]
