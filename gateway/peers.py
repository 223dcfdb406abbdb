"""The other gateways: what they ask of this one about sessions that it serves, and what this one tells them."""

import asyncio
from contextlib import suppress

from mcpctl.bus import peer_frames
from mcpctl.bus.bearer import digest
from mcpctl.bus.connection import Bus, Delivery, Tasks, cancel
from mcpctl.bus.contracts.session import Session
from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.errors import BusError, Forbidden, Internal, NotFound
from mcpctl.bus.frames import BEAT, BEAT_EVERY, PIECE, Reply, encode, gateway_subject
from mcpctl.bus.identity import SERVICE_INBOX, inbox_of
from mcpctl.bus.mcp_messages import Envelope
from mcpctl.bus.principals import Principals
from mcpctl.gateway.dataplane import DataPlane
from mcpctl.gateway.event_log import EventLogs
from mcpctl.gateway.get_stream import GetStreams
from mcpctl.gateway.server_requests import ServerRequests, holder_of

RENEWED_WITHIN = 2.0
"""Seconds that a subscription may wait for the stream that is to carry it."""

ANSWERS = 4096


class PeerAnswer:
    """The frames with which this gateway answers another one."""

    def __init__(self, bus: Bus, reply: str) -> None:
        self.prefix = reply.rpartition(".")[0]
        self._bus, self._reply = bus, reply
        self._number = 0

    async def accept(self) -> None:
        await self._send(Reply("accepted", self._take_number(), router=self._bus.caller))

    async def event(self, number: int, message: bytes) -> None:
        body = b"%d\n" % number + message
        while len(body) > PIECE:
            await self._send(Reply("part", self._take_number()), body[:PIECE])
            body = body[PIECE:]
        await self._send(Reply("msg", self._take_number()), body)

    async def end(self, fault: BusError | None = None) -> None:
        said = (fault.code, str(fault)) if fault is not None else None
        await self._send(Reply("end", self._take_number(), fault=said), b"{}")

    async def _send(self, head: Reply, body: bytes = b"") -> None:
        with suppress(BusError):
            await self._bus.send(self._reply, encode(head, body))

    def _take_number(self) -> int:
        self._number += 1
        return self._number


class Peers:
    """Serves the other gateways, and reaches them."""

    def __init__(
        self,
        bus: Bus,
        plane: DataPlane,
        principals: Principals,
        requests: ServerRequests,
        logs: EventLogs,
        streams: GetStreams,
    ) -> None:
        self._bus, self._plane, self._principals = bus, plane, principals
        self._requests, self._logs, self._streams = requests, logs, streams
        self._answers = Tasks(ANSWERS)
        self._running: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        for name in (self._bus.caller, peer_frames.EVERY_GATEWAY):
            await self._bus.receive(gateway_subject(name, "*"), self._take)

    # --- what this gateway tells the others ---

    async def hand_over(self, session: Session, bearer: str, response: Envelope, body: bytes) -> None:
        """Take a client's response to the gateway that waits for it; one that nobody waits for is dropped."""
        found = holder_of(response)
        if found is None:
            return
        holder, named = found
        if holder == self._bus.caller:
            self._requests.take(named, session.key, bearer, body)
        else:
            await self._plane.tell_gateway(holder, peer_frames.Answered(session.key, named, bearer), body)

    async def withdraw(self, session: str, request_id: str) -> None:
        """Cancel a legacy client's request, whichever gateway and whichever router has it."""
        self._requests.withdraw(session, request_id)
        await self._plane.cancel_request(session, request_id)
        await self._plane.tell_gateway(peer_frames.EVERY_GATEWAY, peer_frames.Withdrawn(session, request_id))

    async def renew(self, session: Session, principal: Principal) -> None:
        """Return when the session's stream, wherever it is, carries its subscriptions; or after two seconds."""
        if session.stream is None:
            return
        with suppress(BusError, TimeoutError):
            async with asyncio.timeout(RENEWED_WITHIN):
                if session.stream == self._bus.caller:
                    await self._streams.renew(session.key)
                    return
                ask = peer_frames.Renew(session.key)
                call = await self._plane.ask_gateway(session.stream, ask, principal, seconds=RENEWED_WITHIN)
                try:
                    frame = await call.next()
                    while frame is None:
                        frame = await call.next()
                finally:
                    await call.cancel()

    # --- what the others ask ---

    async def _take(self, msg: Delivery) -> None:
        caller = msg.subject.rpartition(".")[2]
        try:
            head, body = peer_frames.decode(msg.data)
        except BusError:
            return
        if isinstance(head, peer_frames.Answered):
            self._requests.take(head.id, head.session, head.bearer, body)
        elif isinstance(head, peer_frames.Withdrawn):
            self._requests.withdraw(head.session, head.request_id)
        elif isinstance(head, peer_frames.Leave):
            task = self._running.get(head.reply)
            if task is not None and head.reply.startswith(f"{inbox_of(caller)}."):
                task.cancel()
        elif not msg.reply.startswith(f"{inbox_of(caller)}.{SERVICE_INBOX}."):
            self._bus.misuse.note(msg.subject)
        elif not self._answers.full:
            answer = PeerAnswer(self._bus, msg.reply)
            self._running[msg.reply] = self._answers.start(self._answer(answer, msg.reply, head))

    async def _answer(self, answer: PeerAnswer, reply: str, head: peer_frames.Renew | peer_frames.Resume) -> None:
        fault: BusError | None = None
        try:
            if isinstance(head, peer_frames.Renew):
                await answer.accept()
                await self._streams.renew(head.session)
            else:
                await self._send_events(answer, head)
        except BusError as error:
            fault = error
        except Exception:
            await answer.end(Internal("internal error; the gateway's log has the details"))
            raise
        finally:
            self._running.pop(reply, None)
        await answer.end(fault)

    async def _send_events(self, answer: PeerAnswer, head: peer_frames.Resume) -> None:
        """Send the kept events of a stream, and those to come. Raises `NotFound`, `Forbidden`, `Unauthenticated`."""
        found = self._logs.find(head.stream)
        if found is None:
            raise NotFound("no such stream")
        if (found.session, found.owner) != (head.session, digest(head.bearer)):
            raise Forbidden("the stream is not its bearer's")
        await self._principals.of(head.bearer)
        await answer.accept()
        reader = found.read(head.after)
        beating = asyncio.create_task(self._beat(answer.prefix))
        try:
            while True:
                event = await reader.next()
                if event is not None:
                    await answer.event(*event)
        except EOFError:
            return
        finally:
            reader.leave()
            await cancel(beating)

    async def _beat(self, prefix: str) -> None:
        while True:
            await asyncio.sleep(BEAT_EVERY)
            with suppress(BusError):
                await self._bus.send(f"{prefix}.{BEAT}", encode(Reply("beat", 0, router=self._bus.caller)))

    async def close(self) -> None:
        await self._answers.cancel()
