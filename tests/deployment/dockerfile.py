"""`compose/Dockerfile` without an engine: its stages, and what of this tree a build is given."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
INSTALLED = "opt/mcpctl"
"""Where an image has our program, below `/`: all that one stage takes from another."""

WORDS = {"CMD", "COPY", "ENV", "EXPOSE", "HEALTHCHECK", "RUN", "USER", "WORKDIR"}


@dataclass
class Stage:
    """One `FROM`, and the instructions that follow it."""

    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def of(self, word: str) -> list[str]:
        return [what for name, what in self.instructions if name == word]

    def command(self, word: str) -> list[str]:
        """Return the words of the `CMD`, or of that of the `HEALTHCHECK`."""
        (what,) = self.of(word)
        return list(json.loads(what[what.index("[") :]))


def stages() -> dict[str, Stage]:
    """Return the stages by name."""
    found: dict[str, Stage] = {}
    text = (ROOT / "compose" / "Dockerfile").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        word, _, what = line.partition(" ")
        if word == "FROM":
            base, _, name = what.split()
            found[name] = Stage(base)
        elif line and not line.startswith("#"):
            assert word in WORDS, f"{word} is not understood here"
            found[name].instructions.append((word, what.strip()))
    return found


def context() -> list[str]:
    """Return the files that a build is given: a clean checkout's, without those that `.dockerignore` names."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    ignored = [_pattern(line) for line in (ROOT / ".dockerignore").read_text().split()]
    return [name for name in listed if name and not any(pattern.match(name) for pattern in ignored)]


def _pattern(line: str) -> re.Pattern[str]:
    """Return what matches the files that a line of `.dockerignore` means: by name, or in a folder of that name."""
    assert not line.startswith(("!", "#")), f"{line} is not understood here"
    text = re.escape(line).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
    return re.compile(f"{text}(?:/|$)")


def copied(what: str) -> dict[str, Path]:
    """Return where each file of the context goes by a `COPY`. Raises `LookupError` where it names nothing there."""
    *sources, target = what.split()
    found: dict[str, Path] = {}
    for source in sources:
        inside = {name: Path(target, name[len(source) + 1 :]) for name in context() if name.startswith(f"{source}/")}
        if source in context():
            inside[source] = Path(target, source)
        if not inside:
            raise LookupError(f"COPY {source}: there is no such file in the context")
        found |= inside
    return found


class Build:
    """Does here what stages say: each leaves `root/src` and `root/opt/mcpctl`, the place that its programs name."""

    def __init__(self, folder: Path) -> None:
        self.sources, self.installed = folder / "root" / "src", folder / "root" / INSTALLED

    def copy(self, stage: str) -> None:
        """Copy what a stage takes from the context."""
        for what in stages()[stage].of("COPY"):
            for source, target in copied(what).items():
                (self.sources / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / source, self.sources / target, follow_symlinks=False)

    def run(self, stage: str) -> None:
        """Run what a stage runs."""
        foreign = ("MCPCTL_", "PYTHON", "VIRTUAL_ENV")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        for what in stages()[stage].of("RUN"):
            command = re.sub(r"\bpython -m", f"{sys.executable} -m", what).replace(f"/{INSTALLED}", str(self.installed))
            subprocess.run(["sh", "-euc", command], cwd=self.sources, env=environment, check=True, stdout=sys.stderr)

    def keep(self, folder: Path) -> Path:
        """Copy what is installed now, and return its Python."""
        shutil.copytree(self.installed, folder, symlinks=True)
        return folder / "bin" / "python"
