"""What the parts share: contracts, the bus itself, change feeds, the wire of MCP."""

from mcpctl.bus.lazy_modules import import_lazily, import_without

import_lazily("aiohttp")  # nats-py imports it (0.1 s) and uses it for ws:// alone
import_without("structlog", "rich")  # tracebacks in colour (0.1 s), which no log here has
