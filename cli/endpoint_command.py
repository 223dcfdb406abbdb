"""`mcpctl test mcp URL`: the options, and how the steps are shown."""

import asyncio
import json
import os
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer

from mcpctl.cli.command_groups import Group
from mcpctl.cli.endpoint_check import EndpointCheck, Report, Step, Wanted
from mcpctl.cli.given import given_token, json_object, option_token
from mcpctl.cli.output import note, plain, say

app = typer.Typer(
    cls=Group, rich_markup_mode=None, add_completion=False, help="Try an endpoint, as an agent would use it."
)


class Form(StrEnum):
    """`-o`: for people, or for programs."""

    TEXT = "text"
    JSON = "json"


class EraName(StrEnum):
    """Which revision of MCP to speak."""

    AUTO = "auto"
    MODERN = "modern"
    LEGACY = "legacy"


@app.callback()
def _test() -> None:
    """Try an endpoint, as an agent would use it."""


@app.command()
def mcp(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Streamable HTTP endpoint, such as http://host/projects/demo/mcp.")
    ],
    *,
    token: Annotated[
        str | None,
        typer.Option(metavar="-|@FILE", help="Bearer on stdin, or in a file (default: $MCPCTL_TOKEN)."),
    ] = None,
    tool: Annotated[str | None, typer.Option(metavar="NAME", help="Tool to call.")] = None,
    args: Annotated[str, typer.Option(metavar="JSON", help="Arguments of the call, a JSON object.")] = "{}",
    expect_tools: Annotated[str | None, typer.Option(metavar="A,B", help="Tools that must be listed.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="For all steps together.")] = 30.0,
    era: Annotated[
        EraName, typer.Option(help="Revision to speak: 2026-07-28 (modern), or an older one.")
    ] = EraName.AUTO,
    no_health: Annotated[bool, typer.Option("--no-health", help="Leave /healthz of the same origin out.")] = False,
    output: Annotated[Form, typer.Option("-o", "--output", help="How to print the outcome.")] = Form.TEXT,
) -> None:
    """Try an MCP endpoint. Exit code 0: passed; 1: transport, auth or health; 2: a broken contract.

    \b
    Examples:
      mcpctl test mcp http://127.0.0.1:3200/projects/demo/mcp --token @token-file
      mcpctl test mcp http://127.0.0.1:3200/projects/demo/mcp --tool time__get_current_time --args '{"timezone": "UTC"}'
      MCPCTL_TOKEN=... mcpctl test mcp http://127.0.0.1:3200/projects/demo/mcp --expect-tools time__get_current_time
    """  # noqa: D301 - \b keeps the examples' lines apart
    wanted = Wanted(
        url=url,
        token=option_token(token) or given_token(os.environ.get("MCPCTL_TOKEN") or None),
        tool=tool,
        arguments=json_object(args, "--args"),
        expected=tuple(name.strip() for name in (expect_tools or "").split(",") if name.strip()),
        timeout=timeout,
        health=not no_health,
        era=era.value,
    )
    text = output is Form.TEXT
    check = EndpointCheck(wanted, _show_step if text else _ignore, _show_progress if text else _ignore)
    report = asyncio.run(check.run())
    if text:
        _show_outcome(report)
    else:
        say(json.dumps({"passed": report.code == 0, **asdict(report)}, indent=2, ensure_ascii=False))
    raise typer.Exit(report.code)


def _ignore(_: object) -> None:
    return


def _show_step(step: Step) -> None:
    say(f"{'ok' if step.passed else 'FAILED':<6}  {plain(step.name):<24} {step.ms:8.1f} ms  {plain(step.detail)}")


def _show_progress(text: str) -> None:
    note(f"        progress: {plain(text)}")


def _show_outcome(report: Report) -> None:
    if report.tools and report.result is None:
        for name in report.tools:
            say(f"        - {plain(name)}")
    for line in content_lines(report.result or {}):
        say(f"        {line}")
    say("PASSED" if report.code == 0 else "FAILED")


def content_lines(result: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for part in result.get("content") or ():
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            lines += [plain(line) for line in part["text"].splitlines()]
        elif isinstance(part, dict):
            lines.append(f"[{plain(part.get('type'))} {plain(part.get('mimeType'))}]")
    return lines
