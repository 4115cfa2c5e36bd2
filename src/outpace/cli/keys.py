"""`outpace keys`: make, list, revoke and show API keys."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from outpace.cli.client import AdminClient, path_of
from outpace.cli.credentials import read_credentials
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.periods import parse_duration_s
from outpace.cli.show import as_json, moment, table, usd
from outpace.values.money import format_usd, parse_usd


def register(app: typer.Typer) -> None:
    """Add the group and its commands."""
    group = typer.Typer(
        help="Make, list, revoke and show API keys.", no_args_is_help=True, rich_markup_mode=None
    )
    for name, (command, example) in _COMMANDS.items():
        group.command(name, epilog=f"Example: {example}")(command)
    app.add_typer(group, name="keys")


def create(
    name: Annotated[str, typer.Option(help="Whose key it is; shown in usage.")],
    rpm: Annotated[int | None, typer.Option(min=1, help="Requests per minute.")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help="Tokens per minute.")] = None,
    budget_usd: Annotated[str | None, typer.Option(help="Money that it may spend, such as 12.50.")] = None,
    models: Annotated[str | None, typer.Option(help="Names it may use, with commas between.")] = None,
    scopes: Annotated[str | None, typer.Option(help="`inference`, `admin`, or both with a comma.")] = None,
    expires_in: Annotated[str | None, typer.Option(help="Life of the key, such as 12h or 30d.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Make a key. It is shown this once; only its hash is kept."""
    wanted = {
        "name": name,
        "rpm": rpm,
        "tpm": tpm,
        "budget_usd": None if budget_usd is None else format_usd(parse_usd(budget_usd, "--budget-usd")),
        "models": _words(models, "--models"),
        "scopes": _words(scopes, "--scopes"),
        "expires_in_s": None if expires_in is None else parse_duration_s(expires_in, "--expires-in"),
    }
    made = AdminClient(home_at(home)).post(
        "/admin/keys", {field: value for field, value in wanted.items() if value is not None}
    )
    if json:
        as_json(made)
        return
    typer.echo(made["key"])
    typer.echo(f"{made['id']} is its id. Keep the key: it is not shown again.", err=True)


def list_keys(home: HomeOption = None, json: JsonOption = False) -> None:
    """List keys with their limits and what they spent."""
    keys = AdminClient(home_at(home)).get("/admin/keys")
    if json:
        as_json(keys)
        return
    columns = ("id", "name", "key", "models", "rpm>", "tpm>", "budget>", "spent>", "reserved>", "state")
    table(columns, [_row(key) for key in keys], empty="no keys")


def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `outpace keys list` shows it.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Refuse a key from now on; running requests end."""
    answer = AdminClient(home_at(home)).delete(path_of("keys", key_id))
    if json:
        as_json(answer)
    else:
        typer.echo(f"{answer['id']} revoked")


def show(
    admin: Annotated[bool, typer.Option("--admin", help="The admin API's key instead.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Print the owner's key that `outpace up` made, for use in a shell."""
    credentials = read_credentials(home_at(home))
    field = "admin_key" if admin else "api_key"
    key = getattr(credentials, field)
    if json:
        as_json({field: key})
    else:
        typer.echo(key)


def _row(key: dict[str, Any]) -> tuple[object, ...]:
    models, scopes = key["models"], key["scopes"]
    what = ", ".join(models) if isinstance(models, list) else "all"
    if isinstance(scopes, list) and scopes != ["inference"]:
        what = f"{what} ({', '.join(scopes)})"
    return (
        key["id"],
        key["name"],
        key["prefix"],
        what,
        key["rpm"],
        key["tpm"],
        usd(key["budget_usd"]),
        usd(key["spent_usd"]),
        usd(key["reserved_usd"]),
        _state(key),
    )


def _state(key: dict[str, Any]) -> str:
    if key["revoked_at"] is not None:
        return f"revoked {moment(key['revoked_at'])}"
    return f"until {moment(key['expires_at'])}" if key["expires_at"] is not None else "valid"


def _words(text: str | None, option: str) -> list[str] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise typer.BadParameter("name at least one, or leave the option out", param_hint=option)
    return words


_COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "create": (create, "outpace keys create --name search-team --budget-usd 50 --tpm 100000"),
    "list": (list_keys, "outpace keys list"),
    "revoke": (revoke, "outpace keys revoke key_3f2a"),
    "show": (show, 'curl -H "Authorization: Bearer $(outpace keys show)" http://127.0.0.1:8000/v1/models'),
}
