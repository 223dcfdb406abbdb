"""One GET, for a look at whether something is well."""

import asyncio
import ssl

import mcpctl
from mcpctl.bus.http1 import HttpError, Pool
from mcpctl.bus.http_head import Url
from mcpctl.cli.errors import CliError

LARGEST_BODY = 65_536


async def fetch(url: str, path: str, timeout: float, *, tls: ssl.SSLContext | None = None) -> tuple[int, bytes]:
    """Return status and body of `path` at a URL's origin; `tls` says which certificates are believed.

    Raises `CliError` where no answer comes, `ValueError` for a bad URL. `timeout` is in seconds.
    """
    target = Url.parse(url)
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {target.authority}",
        f"User-Agent: mcpctl/{mcpctl.__version__}",
        "Accept: application/json",
    )
    request = "".join(f"{line}\r\n" for line in (*lines, ""))
    pool = Pool(target, connect_timeout=timeout, max_body=LARGEST_BODY, tls=tls)
    try:
        response = await pool.exchange(request.encode("ascii"), asyncio.get_running_loop().time() + timeout)
        if response.stream is not None:
            response.stream.abandon()
    except HttpError as error:
        raise CliError(str(error)) from error
    finally:
        await pool.close()
    return response.status, response.body
