from mcpctl.bus.lazy_modules import import_lazily

import_lazily("aiohttp")  # nats-py imports it (0.1 s) and uses it for ws:// alone
