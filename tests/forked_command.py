"""`mcpctl` for a shell: passes arguments and files to the process that forks commands, and ends as the command does.

Run it with `python -I -S`: it costs hardly more than a shell's own command. The socket of that process is inherited.
"""

import json
import os
import socket
import sys
import tempfile

requests = socket.socket(fileno=int(sys.argv[1]))
ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
with tempfile.TemporaryFile() as request:
    request.write(json.dumps([["mcpctl.cli.main", *sys.argv[2:]], dict(os.environ), os.getcwd()]).encode())
    request.seek(0)
    socket.send_fds(requests, [b"."], [theirs.fileno(), request.fileno(), 0, 1, 2])
theirs.close()
ours.recv(16)
code = int(ours.recv(16))
os._exit(code if code >= 0 else 128 - code)
