"""The bus as the parts see it: call, serve, publish, listen, ready, close.

What is awkward about NATS and nats-py is dealt with here and nowhere else (seen on nats-py 2.16 with
nats-server 2.15): callbacks run one at a time per subscription; `subscribe()` returns before the server
knows of it; `drain()` does not wait for tasks; a protocol error closes the client for good.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Self, TypeVar

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ConnectionClosedError, Error, MaxPayloadError, NoRespondersError, NoServersError
from nats.errors import TimeoutError as NatsTimeoutError
from pydantic import ValidationError

from mcpctl.bus.context import committing, note_committed, remaining, request_context, traceparent
from mcpctl.bus.contract import Call, Committed, Event, Message
from mcpctl.bus.errors import BadRequest, BusError, DeadlineExceeded, Internal, TooLarge, Unavailable
from mcpctl.bus.identity import INBOX, ActorIdentity, Identity, role_of, service_inbox
from mcpctl.bus.misuse import CALLER_MISMATCH, Misuse, is_callers_own
from mcpctl.bus.nats_url import is_websocket, must_encrypt

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
        self._limit = limit
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def full(self) -> bool:
        return len(self._running) >= self._limit

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


class _Client(Client):
    """nats-py's client, which can be cancelled, and sends no credential where it must not.

    Not before it is encrypted (over `tls://`, and to another machine), and not to a server that is too old.

    Its own `publish` swallows a cancellation, and so does (on Python 3.11) `asyncio.wait_for`, with which it asks, when
    the cancellation meets the answer: a revoked call would run on. And it asks the server's INFO, which comes in
    clear, whether to encrypt.
    """

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002
        scheme = self._current_server.uri.scheme if self._current_server else ""
        if initial_connection:
            if version_of(str(info.get("version"))) < OLDEST_SERVER:
                oldest = ".".join(map(str, OLDEST_SERVER))
                raise _UnfitError(f"it is nats-server {info.get('version')}, and {oldest} is the oldest that is safe")
            if self.options.get("encrypted") and not (info.get("tls_required") or info.get("tls_available")):
                raise _UnfitError(WITHOUT_TLS)
        if scheme == "tls" or self.options.get("encrypted"):
            self._server_info["tls_required"] = True
        if is_websocket(f"{scheme}://"):  # nats-py would go on with the others by nats://, in clear
            info = {name: value for name, value in info.items() if name != "connect_urls"}
        await super()._process_info(info, initial_connection)

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

        transport.readline = readline
        try:
            await super()._process_connect_init()
        except TimeoutError as error:
            if asked < 2:  # the first is for the greeting
                raise
            raise Error("no answer to the authorization request") from error
        finally:
            transport.readline = read

    async def _close(self, *args: Any, **kwargs: Any) -> None:
        transport: Any = self._transport
        if transport is not None:
            wait = transport.wait_closed

            async def wait_closed() -> None:
                # It has just cancelled its own reconnecting, which may have waited for the end of the same transport.
                with own_cancellation_only():
                    await wait()

            transport.wait_closed = wait_closed
        await super()._close(*args, **kwargs)

    async def _flush_pending(self, force_flush: bool = False) -> None:  # noqa: FBT001, FBT002 - nats-py's signature
        with cancellation_kept():
            await super()._flush_pending(force_flush)

    async def request(self, *args: Any, **kwargs: Any) -> Msg:
        with cancellation_kept():
            return await super().request(*args, **kwargs)


def version_of(text: str) -> tuple[int, ...]:
    """Return the numbers of a server's version; none where it has none."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else ()


async def connect_nats(url: str, *, on_closed: Callable[[], None], **options: Any) -> Client:
    """Connect to NATS with the intervals that notice a dead server in two seconds.

    `options` are nats-py's: who connects, and `tls`, which certificates are believed (else: those that the system
    trusts). Raises `Unavailable` where the server cannot be reached or refuses the connection.
    """
    client = _Client()
    client.options = {"encrypted": must_encrypt(url)}
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
                url,
                closed_cb=closed,
                error_cb=note,
                connect_timeout=2,
                ping_interval=1,
                max_outstanding_pings=2,
                reconnect_time_wait=0.05,  # type: ignore[arg-type]  # seconds; a fraction is taken
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

    def __init__(self, client: Client, identity: Identity, closed: asyncio.Event) -> None:
        self.client, self.identity, self.closed = client, identity, closed
        self.caller = identity.caller
        self.tasks = Tasks()
        self.misuse = Misuse()
        self._subscriptions: list[Subscription] = []

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
                break
            except Unavailable as error:
                if error.final or asyncio.get_running_loop().time() >= give_up:
                    raise
                await asyncio.sleep(0.1)
        return cls(client, identity, closed)

    async def call(self, call: Call[Q, R], request: Q, *, timeout: float | None = None) -> R:
        """Ask, and return the answer. Raises the responder's `BusError`, or one that says why there is none."""
        budget = remaining(call.timeout if timeout is None else timeout)
        headers = {BUDGET: str(int(budget * 1000)), TRACE: traceparent()}
        try:
            reply = await self.client.request(
                call.subject(self.caller), request.model_dump_json().encode(), timeout=budget, headers=headers
            )
        except NoRespondersError as error:
            raise Unavailable(f"no {call.actor} actor answers on the bus") from error
        except NatsTimeoutError as error:
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
            raise Unavailable("the bus is away")
        try:
            await self.client.publish(subject, payload, reply=reply)
        except MaxPayloadError as error:
            raise TooLarge("the message is larger than a bus message may be") from error
        except Error as error:
            raise Unavailable("the bus is away") from error

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

        self._subscriptions.append(await self.client.subscribe(subject, queue=queue, cb=start))

    async def receive(self, subject: str, handle: Callable[[Delivery], Awaitable[None]], *, queue: str = "") -> None:
        """Run `handle` for one message of a subject after the other: for what must keep its order, or be quick."""
        self._subscriptions.append(await self.client.subscribe(subject, queue=queue, cb=handle))

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
        """Return when the server knows all subscriptions.

        Twice, since one flush writes its PING ahead of a SUB that is still queued (measured: 13 of 700 lost).
        """
        await self.client.flush()
        await self.client.flush()

    async def answered(self, patience: float) -> None:
        """Return when the answers to what is asked now have gone to the server, or after `patience` seconds."""
        await self.tasks.settle(patience)
        with suppress(Error, TimeoutError):
            async with asyncio.timeout(patience):
                await self.ready()

    async def unsubscribe(self) -> None:
        """Take nothing more; answers to own calls still arrive."""
        while self._subscriptions:
            with suppress(Error):
                await self._subscriptions.pop().unsubscribe()

    async def close(self, *, grace: float = 5.0) -> None:
        """Take no more requests, finish those at hand, disconnect."""
        await self.unsubscribe()
        await self.tasks.finish(grace)
        with suppress(Error):
            await self.client.close()


async def _within(seconds: float, answers: "asyncio.Queue[Delivery]") -> Delivery | None:
    try:
        async with asyncio.timeout(seconds):
            return await answers.get()
    except TimeoutError:
        return None


class Publisher:
    """An actor's connection to the account EVENTS, where it is the only writer of its events."""

    def __init__(self, client: Client) -> None:
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
