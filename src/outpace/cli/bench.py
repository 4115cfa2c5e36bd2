"""`outpace bench`: measure this machine, with commands that anyone can run again."""

import importlib

import typer

# name → module with `register(group)`. A module imports at its top only what is quick.
BENCHES: dict[str, str] = {
    "coldstart": "outpace.cli.bench_coldstart",
    "fleet": "outpace.cli.bench_fleet",
    "layers": "outpace.cli.bench_layers",
    "load": "outpace.cli.bench_load",
    "planner": "outpace.cli.bench_planner",
    "scheduling": "outpace.cli.bench_scheduling",
    "speculation": "outpace.cli.bench_speculation",
    "tasks": "outpace.cli.bench_tasks",
}

_EXAMPLE = "Example: outpace bench layers"


def register(app: typer.Typer) -> None:
    """Add the group with every benchmark."""
    group = typer.Typer(
        help="Measure what the platform does on this machine.", no_args_is_help=True, epilog=_EXAMPLE
    )
    for module in BENCHES.values():
        importlib.import_module(module).register(group)
    app.add_typer(group, name="bench")
