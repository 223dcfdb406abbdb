"""What a router may start: the operator's list of commands, and the limits of a process."""

import os
import re
import resource
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mcpctl.bus.mcp_client import McpTransportError
from mcpctl.bus.process import die_with_parent

ANY = "*"
_DECIDES_WHAT_RUNS = re.compile(
    r"(LD|DYLD|GIT|NPM_CONFIG|PIP|UV|MALLOC|BASH|MCPCTL)_.*|(PYTHON|PERL|RUBY).*|NODE_(OPTIONS|PATH)|_?JAVA_.*|JDK_.*"
    r"|GLIBC_TUNABLES|GCONV_PATH|CLASSPATH|PATH|HOME|SHELL|ENV|SHELLOPTS|IFS|TMPDIR",
    re.IGNORECASE,
)
"""Variables by which a program that is on the list could be made to run what is not, or to read its code elsewhere."""


@dataclass(frozen=True)
class StdioRules:
    """Which commands may be started, each by its first words, and with which limits; no command is in an empty list.

    `memory` is the most that a process may have of its own in bytes, 0 for as much as there is; `files` how many it
    may have open at once; `longest` a line that it may write, in bytes.
    """

    commands: tuple[str, ...]
    memory: int
    files: int
    longest: int

    def program(self, command: Sequence[str], env: Mapping[str, str]) -> str:
        """Return the path of the program to start.

        Where any command may be started, any variable may be set: it gives nothing that a command would not.
        Raises `McpTransportError` for what may not be started, or is not there.
        """
        name = command[0]
        if os.sep in name and (not name.startswith(os.sep) or os.path.normpath(name) != name):
            raise McpTransportError(
                f"{name} is not started: give a name, or an absolute path without . and ..", sent=False
            )
        program = shutil.which(name)
        if ANY not in self.commands:
            # Symbolic links are not followed: one program may have many names, and do another thing by each.
            if not any(_begins(command, program or name, entry.split()) for entry in self.commands):
                raise McpTransportError(f"{name} is not started: it is not in MCPCTL_STDIO_COMMANDS", sent=False)
            refused = sorted(variable for variable in env if _DECIDES_WHAT_RUNS.fullmatch(variable))
            if refused:
                raise McpTransportError(
                    f"{name} is not started: the variable {refused[0]} could make it run another program", sent=False
                )
        if program is None:
            raise McpTransportError(f"{name} cannot be started: there is no such program", sent=False)
        return program

    def limit(self) -> None:
        """Limit this process, between fork and exec."""
        die_with_parent()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        files = self.files if hard == resource.RLIM_INFINITY else min(self.files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        if self.memory:
            # Not the address space, of which V8 and Go reserve far more than they use.
            resource.setrlimit(resource.RLIMIT_DATA, (self.memory, self.memory))


def _begins(command: Sequence[str], program: str, entry: Sequence[str]) -> bool:
    first = entry[0] if entry[0].startswith(os.sep) else shutil.which(entry[0])
    return program == first and tuple(command[1 : len(entry)]) == tuple(entry[1:])
