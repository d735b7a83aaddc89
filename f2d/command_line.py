"""What the commands `f2d` and `f2d-train` share: help with examples, log lines, and exit codes."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any


def create_parser(program: str, description: str, examples: str) -> tuple[argparse.ArgumentParser, Any]:
    """Create a program's parser, and the object that `add_command` adds its commands to."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser, parser.add_subparsers(title="commands", required=True, metavar="COMMAND")


def add_command(
    commands: Any, name: str, summary: str, example: str, **defaults: Any
) -> argparse.ArgumentParser:
    """Add a command.

    Args:
        commands: of `create_parser`.
        name: what users type.
        summary: one line, with a small first letter and no full stop.
        example: the arguments of an example, after the command's name.
        **defaults: what parsing returns besides the options, such as the function to run.

    Returns:
        The command's parser.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.epilog = f"example:\n  {parser.prog} {example}"
    parser.set_defaults(**defaults)
    return parser


def parse_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; a mistake in it ends the program with status 2.

    Args:
        parser: of `create_parser`.
        arguments: None = those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    before = given[: given.index("--")] if "--" in given else given
    for argument in before:
        option, separator, value = argument.partition("=")
        if option.startswith("-") and separator and value == "--":  # argparse would set it to an empty list
            parser.error(f"argument {option}: '--' is not a value. Give one, or leave the option out.")
    return parser.parse_args(given)


def run_command(
    program: str,
    command: Callable[[], None],
    interrupted: str,
    stopped: tuple[type[BaseException], ...] = (),
) -> int:
    """Run a command, and turn its errors into one line on stderr.

    Args:
        program: its name, for the line.
        command: does the work.
        interrupted: the line for Ctrl-C.
        stopped: errors that are not the user's, such as a loss that is not finite.

    Returns:
        The exit code: 0, 1 where it had to stop, 2 on bad input, 130 on Ctrl-C.
    """
    try:
        command()
    except KeyboardInterrupt:
        return _fail(program, interrupted, 130)
    except stopped as error:
        return _fail(program, str(error), 1)
    except (ValueError, OSError, ImportError) as error:
        return _fail(program, str(error), 2)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return _fail(program, "Out of memory. Use smaller sizes or batches.", 2)
    return 0


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python, NumPy or PyTorch means that memory ran out."""
    return isinstance(error, MemoryError) or bool(re.search(r"out of memory|allocate memory", str(error)))


def escape_unprintable() -> None:
    """Let the console show names that it cannot print as escapes, instead of stopping the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError):  # closed
                stream.reconfigure(errors="backslashreplace")


def _fail(program: str, message: str, code: int) -> int:
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
    return code


def log(message: str) -> None:
    """Print a progress message or a result at once."""
    print(message, flush=True)
