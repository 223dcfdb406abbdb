"""The official conformance suite: installed as the lock file says, run on a URL, and its verdicts read."""

import asyncio
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.node import NODE, installed

HERE = Path(__file__).parent
REVISIONS = ("2025-11-25", "2026-07-28")
RUN_SECONDS = 60
STEP_MILLISECONDS = "20000"
_FOLDER = re.compile(r"server-(?P<scenario>.+?)-\d{4}-\d\d-\d\dT.*")


@dataclass(frozen=True)
class Verdict:
    """What the suite says of one scenario: its checks, and the texts of those that failed or warned."""

    passed: int
    failed: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()

    @classmethod
    def of(cls, checks: list[dict[str, str]]) -> "Verdict":
        def texts(status: str) -> tuple[str, ...]:
            return tuple(f"{c['id']}: {c.get('errorMessage', '')}" for c in checks if c["status"] == status)

        return cls(sum(check["status"] == "SUCCESS" for check in checks), texts("FAILURE"), texts("WARNING"))

    @property
    def word(self) -> str:
        """Return `pass`, `warn` or `FAIL`; by the suite's own rule a scenario with warnings alone has passed."""
        if self.failed or not self.passed:
            return "FAIL"
        return "warn" if self.warned else "pass"


class Suite:
    """An installed suite."""

    def __init__(self, folder: Path) -> None:
        self._package = folder / "node_modules" / "@modelcontextprotocol" / "conformance"

    @classmethod
    async def install(cls, cache: Path) -> "Suite":
        return cls(await installed(HERE, cache))

    def scored(self, revision: str) -> list[str]:
        """Return the scenarios that conformance to a revision requires of a server."""
        return list(self._requirements(revision)["server"])

    def unscored(self, revision: str) -> list[str]:
        """Return those that the suite runs without a score; extensions, of which the gateway carries none, left out."""
        entries = self._requirements(revision)["not_scored"]
        return [e["scenario"] for e in entries if e["leg"] == "server" and e["reason"] != "extension"]

    def _requirements(self, revision: str):
        return yaml.safe_load((self._package / "requirements" / f"{revision}.yaml").read_text())

    async def run(self, url: str, revision: str, out: Path) -> dict[str, Verdict]:
        """Run all of a revision's scenarios for servers; the verdicts stand in the order of the requirements."""
        said = await self._run("server", "--url", url, "--requirements", revision, out=out)
        found = {}
        for folder in sorted(out.glob("server-*")) if out.exists() else ():
            checks = folder / "checks.json"
            if (match := _FOLDER.fullmatch(folder.name)) and checks.exists():
                found[match["scenario"]] = Verdict.of(json.loads(checks.read_text()))
        assert found, f"the suite did not run: {said[-2000:]}"
        missing = Verdict(0, ("the suite has no verdict",))
        return {name: found.get(name, missing) for name in self.scored(revision) + self.unscored(revision)}

    async def run_client(self, command: str, revision: str, scenario: str, out: Path) -> Verdict:
        """Run one scenario for clients: the command is given the URL of a server of the suite's."""
        version = ("--spec-version", revision)
        said = await self._run("client", "--command", command, "--scenario", scenario, *version, out=out)
        checks = list(out.glob("*/checks.json")) if out.exists() else []
        assert checks, f"the suite did not run: {said[-2000:]}"
        return Verdict.of(json.loads(checks[0].read_text()))

    async def _run(self, *arguments: str, out: Path) -> str:
        shutil.rmtree(out, ignore_errors=True)
        process = await asyncio.create_subprocess_exec(
            NODE,
            str(self._package / "dist" / "index.js"),
            *arguments,
            *("--timeout", STEP_MILLISECONDS, "-o", str(out)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(RUN_SECONDS):
                said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return said.decode()
