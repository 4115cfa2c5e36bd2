"""`outpace node`: make this machine a part of a Ray cluster."""

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from outpace.cli.options import JsonOption
from outpace.cli.show import as_json
from outpace.fleet.ray_knock import host_and_port, require_cluster, require_installed
from outpace.fleet.ray_node import DEFAULT_TOKEN_PATH, NodeOptions, require_token, start, token_env
from outpace.values.errors import EngineFailed, InvalidInput

EXAMPLES = """Examples: outpace node join --head
 · outpace node join 10.0.0.1:6379 --devices 2 --accelerator H100 --label zone=a"""


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Make this machine a part of a Ray cluster, for `outpace up --ray`.", no_args_is_help=True
    )
    group.command(epilog=EXAMPLES)(join)
    app.add_typer(group, name="node")


def join(
    address: Annotated[
        str | None, typer.Argument(metavar="[HOST:PORT]", help="The cluster's head.", show_default=False)
    ] = None,
    head: Annotated[bool, typer.Option("--head", help="Be the head of a new cluster.")] = False,
    port: Annotated[int, typer.Option(help="The head's port, with --head.")] = 6379,
    own_address: Annotated[
        str | None,
        typer.Option("--own-address", help="This machine's address for the others.  [default: found]"),
    ] = None,
    cpus: Annotated[
        int | None,
        typer.Option(min=0, help="Processors to offer; 0 for a machine that only serves the doors."),
    ] = None,
    devices: Annotated[
        int | None, typer.Option(min=0, help="Accelerators to offer.  [default: found]")
    ] = None,
    accelerator: Annotated[
        str | None, typer.Option(help="Their kind, such as H100.  [default: found]")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="May be repeated.")] = None,
    object_store_mib: Annotated[
        int | None, typer.Option(min=75, help="Ray's shared memory; Outpace needs none of it.")
    ] = 80,
    weights_dir: Annotated[
        Path | None,
        typer.Option(
            "--weights-dir", help="Where weights lie that this machine is sent.  [default: user's cache]"
        ),
    ] = None,
    weights_gib: Annotated[
        float | None,
        typer.Option(
            "--weights-gib", min=0, help="Most GiB of them while unused.  [default: a quarter of the disk]"
        ),
    ] = None,
    token_file: Annotated[
        Path, typer.Option(help="The cluster's token; --head makes one when there is none.")
    ] = DEFAULT_TOKEN_PATH,
    json: JsonOption = False,
) -> None:
    """Start Ray here and stay; Ctrl-C leaves the cluster.

    Everything is asked for the token: without it nobody starts a program on a machine of the cluster.
    """
    require_installed()
    if (address is None) != head:
        raise InvalidInput("HOST:PORT", "give the head's address, or --head to be it")
    token_path = require_token(token_file, may_make=head)
    if address is not None:
        host_and_port(address)
        require_cluster(address, is_open=False, env=token_env(token_path))
    options = NodeOptions(
        head=address,
        port=port,
        own_address=own_address,
        cpus=cpus,
        devices=devices,
        accelerator=accelerator,
        labels=labels_of(label or []),
        object_store_mib=object_store_mib,
        weights_dir=weights_dir,
        weights_gib=weights_gib,
    )
    if json:
        as_json({"head": address, "token_file": str(token_path)})
    else:
        typer.echo(f"  token in {token_path}; every machine of the cluster needs this file, and nobody else")
    _stay(options, token_path)


def labels_of(words: list[str]) -> dict[str, str]:
    """Labels by name. Raises InvalidInput."""
    labels: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or "," in word:
            raise InvalidInput("--label", f"{word!r} is no NAME=VALUE")
        labels[name] = value
    return labels


def _stay(options: NodeOptions, token_path: Path) -> None:
    node = start(options, token_path)

    def leave(number: int, frame: FrameType | None) -> None:
        node.terminate()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, leave)
    code = node.wait()
    if code > 0:
        raise EngineFailed(f"Ray ended with {code}; its words are above")
