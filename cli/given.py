"""Secrets and assignments as they are given on the command line."""

import getpass
import json
import sys
from pathlib import Path
from typing import Any

from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.private_file import read_private


def option_token(value: str | None) -> str | None:
    """Return the bearer that `--token` means: a line of stdin (`-`), or a file's (`@FILE`).

    Raises `CliError` as `given_token` does, and for a bearer itself: other users and the shell's history see it.
    """
    if value is not None and value != "-" and not value.startswith("@"):
        raise CliError(
            "a token does not belong on the command line, where others can read it: write --token - and give it on "
            "stdin, or --token @FILE, or set MCPCTL_TOKEN",
            USAGE,
        )
    return given_token(value)


def given_token(value: str | None) -> str | None:
    """Return the bearer that a text means: the text itself, a line of stdin (`-`), or a file's (`@FILE`).

    Raises `CliError` where it cannot be read or could not be sent, and for a file that others can read.
    """
    if value is None:
        return None
    if value == "-":
        value = sys.stdin.readline()
    elif value.startswith("@"):
        value = _private_text(Path(value[1:]).expanduser())
    token = value.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise CliError("the token is empty or has a space or a control character in it", USAGE)
    return token


def _private_text(path: Path) -> str:
    text = read_private(path)
    if text is None:
        raise CliError(f"cannot read {path}: no such file", USAGE)
    return text


def json_object(text: str, option: str) -> dict[str, Any]:
    """Read a JSON object. Raises `CliError` for anything else."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CliError(f"{option} is no valid JSON: {error}", USAGE) from error
    if not isinstance(value, dict):
        raise CliError(f'{option} must be a JSON object, such as \'{{"timezone": "UTC"}}\'', USAGE)
    return value


def read_text(path: str) -> str:
    """Return a file's text. Raises `CliError`."""
    try:
        return Path(path).read_text()
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}", USAGE) from error
    except UnicodeDecodeError as error:
        raise CliError(f"cannot read {path}: it is not text", USAGE) from error


def ask_secret(prompt: str, *, repeat: bool = False) -> str:
    """Read a secret from the terminal without echo (twice where `repeat`). Raises `CliError` without a terminal."""
    if not sys.stdin.isatty():
        raise CliError("no terminal to ask on: give it on stdin, with the option that says so", USAGE)
    try:
        value = getpass.getpass(f"{prompt}: ")
        if repeat and getpass.getpass(f"{prompt} (again): ") != value:
            raise CliError("the two are not the same: try again", USAGE)
    except EOFError:
        raise CliError("nothing was entered", USAGE) from None
    return value


def ask_password(*, from_stdin: bool, repeat: bool = False) -> str:
    """Return a password from a line of stdin or from a prompt. Raises `CliError`."""
    password = sys.stdin.readline().rstrip("\r\n") if from_stdin else ask_secret("Password", repeat=repeat)
    if not password:
        raise CliError("the password is empty", USAGE)
    return password


def given_secret(from_file: str | None) -> str:
    """Return the value of a new secret: a file's, the prompt's, or all of stdin. One last newline is not part of it."""
    if from_file is not None:
        return _without_newline(read_text(from_file))
    if sys.stdin.isatty():
        return ask_secret("Value", repeat=True)
    try:
        return _without_newline(sys.stdin.read())
    except UnicodeDecodeError as error:
        raise CliError("the value on stdin is not text", USAGE) from error


def _without_newline(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def assignments(texts: list[str] | None, option: str) -> dict[str, str]:
    """Read `NAME=VALUE` texts. Raises `CliError` for one that is none, or for a name that comes twice."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise CliError(f"{option} takes NAME=VALUE or NAME=secret:REF", USAGE)
        if name in found:
            raise CliError(f"{option} names {name} twice", USAGE)
        found[name] = value
    return found
