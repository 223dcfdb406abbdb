"""Run a module as `python -m` does and count what it does that costs: `python -m tests.cost.counted -m MODULE …`.

On SIGUSR1 the counts so far go to the file that `COUNTED` names with the module's last word, as one JSON object.
"""

import collections
import json
import os
import runpy
import signal
import sqlite3
import sys
import threading
from pathlib import Path

import msgspec
import orjson
from nats.aio.client import Client

counts: collections.Counter[str] = collections.Counter()
clients: list[Client] = []


def count(_frame, event, called):
    if event != "c_call":
        return
    owner, name = getattr(called, "__self__", None), called.__name__
    if name in ("decode", "loads"):
        if isinstance(owner, msgspec.json.Decoder) or called in (orjson.loads, msgspec.json.decode, json.loads):
            counts["json"] += 1
    elif name in ("execute", "executemany") and isinstance(owner, sqlite3.Cursor):
        counts["sql"] += 1
    elif name == "commit" and isinstance(owner, sqlite3.Connection):
        counts["commits"] += 1


def tell(*_):
    bus = {way: sum(client.stats[f"{way}_msgs"] for client in clients) for way in ("in", "out")}
    path = Path(f"{os.environ['COUNTED']}-{word}")
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps({"json": 0, "sql": 0, "commits": 0} | counts | bus))
    draft.rename(path)


if __name__ == "__main__":
    module, word = sys.argv[2], sys.argv[-1]
    connect = Client.connect
    Client.connect = lambda client, *args, **options: clients.append(client) or connect(client, *args, **options)
    del sys.argv[:2]
    signal.signal(signal.SIGUSR1, tell)
    threading.setprofile(count)
    sys.setprofile(count)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
