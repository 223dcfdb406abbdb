"""The demo's own MCP server: notes in one JSON file, and a tool that takes its time.

`python -m mcpctl.cli.demo_server --port PORT --notes FILE` serves Streamable HTTP at /mcp on loopback. It checks
no token: the gateway does that for whoever comes through it.
"""

import argparse
import asyncio
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from mcpctl.bus.runtime import tell_ready

LONGEST_COUNT = 1000
MOST_NOTES = 1000
LONGEST_NOTE = 4000


class Notes:
    """Notes, newest last, kept in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._notes: list[dict[str, str]] = json.loads(file.read_text()) if file.exists() else []

    def add(self, text: str) -> int:
        """Keep a note and return its number. Raises `ToolError` for one that is too long or too many."""
        if not text.strip() or len(text) > LONGEST_NOTE:
            raise ToolError(f"a note has 1 to {LONGEST_NOTE} characters")
        if len(self._notes) >= MOST_NOTES:
            raise ToolError(f"there are {MOST_NOTES} notes already")
        self._notes.append({"at": datetime.now(UTC).isoformat(timespec="seconds"), "text": text})
        scratch = self._file.with_suffix(".new")
        scratch.write_text(json.dumps(self._notes, indent=1))
        scratch.replace(self._file)
        return len(self._notes)

    def matching(self, word: str = "") -> list[str]:
        lines = (f"{number}. {note['text']} ({note['at']})" for number, note in enumerate(self._notes, 1))
        return [line for line in lines if word.lower() in line.lower()]


def build(notes: Notes) -> MCPServer:
    """Return the server with its tools, resource and prompt."""
    server = MCPServer("notes", version="1.0.0", log_level="WARNING")

    @server.tool()
    def add_note(text: str) -> str:
        """Keep a note."""
        return f"kept as note {notes.add(text)}"

    @server.tool()
    def list_notes() -> list[str]:
        """List all notes, oldest first."""
        return notes.matching()

    @server.tool()
    def search_notes(word: str) -> list[str]:
        """List the notes that contain a word."""
        return notes.matching(word)

    @server.tool()
    async def count(to: int, context: Context) -> str:
        """Count to a number, a step every 200 ms, and report progress meanwhile."""
        if not 1 <= to <= LONGEST_COUNT:
            raise ToolError(f"count to a number from 1 to {LONGEST_COUNT}")
        for step in range(1, to + 1):
            await asyncio.sleep(0.2)
            await context.report_progress(step, to, f"at {step}")
        return f"counted to {to}"

    @server.resource("notes://all")
    def all_notes() -> str:
        """All notes as text."""
        return "\n".join(notes.matching()) or "no notes yet"

    @server.prompt()
    def summarize(topic: str) -> str:
        """Ask for a summary of the notes on a topic."""
        found = "\n".join(notes.matching(topic)) or "(none)"
        return f"Summarize in three sentences what these notes say about {topic}:\n{found}"

    return server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--notes", type=Path, required=True)
    arguments = parser.parse_args()
    app = build(Notes(arguments.notes)).streamable_http_app()
    with socket.create_server(("127.0.0.1", arguments.port)) as listener:
        descriptor = os.environ.get("MCPCTL_READY_FD", "")
        tell_ready(int(descriptor) if descriptor.isdigit() else None)  # whoever connects from now on is served
        settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        asyncio.run(uvicorn.Server(settings).serve(sockets=[listener]))


if __name__ == "__main__":
    main()
