"""The program `mcpctl`: its table of commands, and how it ends."""

import os
import sys
from typing import Annotated

import typer

import mcpctl
from mcpctl.bus.bearer import masked
from mcpctl.cli.command_groups import Command, LazyGroup
from mcpctl.cli.errors import INTERRUPTED, REFUSED, CliError

RESOURCES, TOKENS, AGENTS, PROCESSES = "Resources", "Who you are", "Agents and their calls", "Processes"


class Program(LazyGroup):
    """All commands, in the order of the help."""

    table = (
        Command("get", RESOURCES, "List resources, or show some of them", "mcpctl.cli.getting:get"),
        Command("describe", RESOURCES, "Show all there is to know about a resource", "mcpctl.cli.verbs:describe"),
        Command("create", RESOURCES, "Create a project, server, mcptoken, user, ...", "mcpctl.cli.create:app"),
        Command("edit", RESOURCES, "Change a resource in $EDITOR, or with --set", "mcpctl.cli.edit:edit"),
        Command("label", RESOURCES, "Set and remove labels", "mcpctl.cli.labels:label"),
        Command("delete", RESOURCES, "Delete resources", "mcpctl.cli.verbs:delete"),
        Command("revoke", RESOURCES, "Revoke mcptokens", "mcpctl.cli.verbs:revoke"),
        Command("freeze", RESOURCES, "Stop projects at once", "mcpctl.cli.freeze:freeze"),
        Command("unfreeze", RESOURCES, "Let frozen projects go on", "mcpctl.cli.freeze:unfreeze"),
        Command("rotate", RESOURCES, "Give an mcptoken a new bearer", "mcpctl.cli.rotate:app"),
        Command("approve", RESOURCES, "Approve tools that their servers changed", "mcpctl.cli.pins:app"),
        Command("explain", RESOURCES, "Show the fields of a kind of resource", "mcpctl.cli.explain_kind:explain"),
        Command("apply", RESOURCES, "Bring resources to what files say", "mcpctl.cli.apply:apply"),
        Command("export", RESOURCES, "Write a backup of the whole control plane", "mcpctl.cli.backup:export"),
        Command("import", RESOURCES, "Restore a backup, or take servers from a client", "mcpctl.cli.imports:app"),
        Command("call", AGENTS, "Call a tool", "mcpctl.cli.call:app"),
        Command("logs", AGENTS, "Show what a server writes to stderr", "mcpctl.cli.logs:app"),
        Command("mcp", AGENTS, "Serve a project over stdio", "mcpctl.cli.bridge:mcp"),
        Command("gate", AGENTS, "Have agents briefed again", "mcpctl.cli.gate:app"),
        Command("test", AGENTS, "Try an MCP endpoint", "mcpctl.cli.endpoint_command:app"),
        Command("suggest", AGENTS, "Suggest the least rights, from what was done", "mcpctl.cli.suggest:app"),
        Command("audit", AGENTS, "Show, follow and prove what was done and decided", "mcpctl.cli.audit:app"),
        Command("login", TOKENS, "Log in with a password", "mcpctl.cli.auth:login"),
        Command("logout", TOKENS, "End the login session", "mcpctl.cli.auth:logout"),
        Command("auth", TOKENS, "Show who you are and what you may do", "mcpctl.cli.auth:app"),
        Command("config", TOKENS, "Show and change contexts", "mcpctl.cli.config:app"),
        Command("up", PROCESSES, "Run everything on this machine", "mcpctl.cli.processes:up"),
        Command("run", PROCESSES, "Run one part: a gateway, or some actors", "mcpctl.cli.processes:run"),
        Command("status", PROCESSES, "Show which parts answer", "mcpctl.cli.status:status"),
        Command("db", PROCESSES, "Check, migrate and move the databases", "mcpctl.cli.database:app"),
        Command("nats", PROCESSES, "Make and check the configuration of the bus", "mcpctl.cli.nats:app"),
        Command("keys", PROCESSES, "Rotate the keys that parts keep in files", "mcpctl.cli.keys:app"),
        Command("admin", PROCESSES, "Help on the host itself", "mcpctl.cli.admin:app"),
        Command("completion", PROCESSES, "Print the completion script of a shell", "mcpctl.cli.completion:completion"),
        Command("version", PROCESSES, "Show the version", "mcpctl.cli.processes:version"),
    )


app = typer.Typer(cls=Program, rich_markup_mode=None, add_completion=True)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - the signature is typer's
    if wanted:
        typer.echo(f"mcpctl {mcpctl.__version__}")
        raise typer.Exit


@app.callback(epilog="Every command takes --help. Exit codes: 0 done, 1 refused, 2 usage, 3 unavailable.")
def program(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Control plane and gateway for MCP."""


def run() -> None:
    """Run the command line, and end the process with the exit code that fits."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run a command and return its exit code; whatever fails becomes one line on stderr."""
    try:
        done = typer.main.get_command(app).main(arguments, prog_name="mcpctl", standalone_mode=False)
        sys.stdout.flush()
    except CliError as error:
        return _fail(str(error), error.code)
    except typer.TyperException as error:
        return _fail(_usage(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's last flush fails too
        return REFUSED
    except Exception as error:
        if os.environ.get("MCPCTL_DEBUG"):
            raise
        return _fail(f"unexpected {type(error).__name__}: {error} (MCPCTL_DEBUG=1 shows the traceback)", REFUSED)
    return done if isinstance(done, int) else 0


def _usage(error: typer.TyperException) -> str:
    path = getattr(getattr(error, "ctx", None), "command_path", None)
    text = error.format_message().replace("Value error, ", "").strip().rstrip(".")
    return f"{text[:1].lower()}{text[1:]} (see {path} --help)" if path else text


def _fail(text: str, code: int) -> int:
    line = masked(" ".join(text.split()).encode(errors="replace")).decode()
    sys.stderr.write(f"Error: {line}\n")
    return code


if __name__ == "__main__":
    run()
