"""How far the searches go that have no end of their own: `MCPCTL_TEST_SCALE=5 pytest FILE` looks five times as far."""

import os

SCALE = int(os.environ.get("MCPCTL_TEST_SCALE", "1"))
