import asyncio, aiohttp
import pytest, time
from tests.gateway.raw_session import RawSession, last_message
from tests.clients.scenario import OLD

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_zz(front):
    inst = front
    async with aiohttp.ClientSession() as http:
        bad = 0
        worst = 0
        late = []
        for n in range(300):
            s = await RawSession.open(http, inst, ("dual", "old", "new")[n % 3], version=OLD)
            async with s.listening():
                async with s.call("echo", text="x") as a:
                    await last_message(a)
                if n % 2:
                    async with s.call("echo", text="x") as a:
                        await last_message(a)
            async with s.delete() as a:
                assert a.status == 204
            t = time.perf_counter()
            for k in range(1000):
                async with s.post("ping") as a:
                    st = a.status
                if st == 404:
                    break
                bad += 1
            if k:
                late.append((n, k, round((time.perf_counter() - t) * 1000)))
        print("RESULT stale", bad, "of 300;", late)
