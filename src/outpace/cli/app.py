"""`outpace`: the commands by name, and the one place where an error becomes a line."""

import importlib
import os
import sys
from typing import Annotated

import typer

from outpace import __version__
from outpace.values.errors import OutpaceError

# name → module with `register(app)`. Imported only when called (or for the list of all of them), so such a
# module imports at its top only what is quick: no Rich, no HTTP, no database.
COMMANDS: dict[str, str] = {
    "up": "outpace.cli.up",
    "down": "outpace.cli.down",
    "node": "outpace.cli.node",
    "status": "outpace.cli.status",
    "models": "outpace.cli.models",
    "pull": "outpace.cli.pull",
    "deploy": "outpace.cli.deploy",
    "scale": "outpace.cli.scale",
    "stop": "outpace.cli.stop",
    "keys": "outpace.cli.keys",
    "usage": "outpace.cli.usage",
    "receipts": "outpace.cli.receipts",
    "logs": "outpace.cli.logs",
    "plan": "outpace.cli.plan",
    "predict": "outpace.cli.predict",
    "quantize": "outpace.cli.quantize",
    "gate": "outpace.cli.gate",
    "collect": "outpace.cli.collect",
    "profile": "outpace.cli.profile",
    "bench": "outpace.cli.bench",
}


def main() -> None:
    """Run the CLI: exit 0 ok, 1 failed, 2 usage. `--debug` anywhere shows where an error came from."""
    is_debug = "--debug" in sys.argv
    argv = [word for word in sys.argv[1:] if word != "--debug"]
    try:
        app_for(argv)(args=argv)
    except (OutpaceError, OSError) as error:
        if is_debug:
            raise
        _fail(error)


def app_for(argv: list[str]) -> typer.Typer:
    """The application with the command that `argv` names, or with all of them."""
    app = typer.Typer(
        name="outpace",
        help="The managed LLM inference platform that a team runs itself.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_options)
    for name in argv[:1] if argv and argv[0] in COMMANDS else COMMANDS:
        importlib.import_module(COMMANDS[name]).register(app)
    return app


def _options(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """`--debug` is read by `main`, so that it works behind the command too; here it is only named."""
    if show_version:
        typer.echo(f"outpace {__version__}")
        raise typer.Exit


def _fail(error: Exception) -> None:
    if isinstance(error, BrokenPipeError):
        # The reader of our output left (`outpace usage | head`): nothing to tell, and nobody to tell it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1)
    typer.echo(f"outpace: {error}", err=True)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
