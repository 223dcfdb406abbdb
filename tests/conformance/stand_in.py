"""What the suite runs as "the client under test": it tells a waiting test where the scenario is, and ends with it.

Its arguments are the port of that test and, put there by the suite, the URL of the scenario's server.
"""

import json
import os
import socket
import sys

port, url = sys.argv[1:]
with socket.create_connection(("127.0.0.1", int(port))) as connection:
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    connection.sendall(json.dumps({"url": url, "context": context}).encode() + b"\n")
    answer = connection.makefile().read()
sys.exit(answer or None)
