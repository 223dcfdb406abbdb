"""What is written down of the suite: its scenarios, and the setups in which all of them pass.

The table in the docs is made of it; a run that found something else fails.
"""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results.json"


def written_down() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def write_down(revision: str, scored: list[str], unscored: list[str], setup: str) -> None:
    results = written_down()
    entry = results.setdefault(revision, {"setups": []})
    if (entry.get("scored"), entry.get("unscored")) != (scored, unscored):
        entry = results[revision] = {"setups": []}
    if setup not in entry["setups"]:
        entry["setups"].append(setup)
    entry |= {"scored": scored, "unscored": unscored}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
