"""`outpace`: the commands by name, and the one place where an error becomes a line."""

import importlib
import sys

import typer

from outpace.values.errors import OutpaceError

# name → module with a function of that name (dashes become underscores). Imported only when called.
COMMANDS: dict[str, str] = {}

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    """Run the CLI: exit 0 ok, 1 failed, 2 usage."""
    debug = "--debug" in sys.argv
    argv = [word for word in sys.argv[1:] if word != "--debug"]
    for name in _wanted(argv):
        module = importlib.import_module(COMMANDS[name])
        module.register(app)
    try:
        app(args=argv)
    except OutpaceError as error:
        if debug:
            raise
        typer.echo(f"outpace: {error}", err=True)
        raise SystemExit(1) from None


def _wanted(argv: list[str]) -> list[str]:
    named = [word for word in argv[:1] if word in COMMANDS]
    return named or list(COMMANDS)


if __name__ == "__main__":
    main()
