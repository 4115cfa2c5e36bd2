"""`outpace bench tasks`: lm-eval's task scores of a deployment, through the platform's own door."""

from pathlib import Path
from typing import Annotated

import typer

from outpace.cli.credentials import read_credentials
from outpace.cli.options import HomeOption, JsonOption, home_at
from outpace.cli.quantize import watching
from outpace.cli.show import as_json, table
from outpace.values.errors import InvalidInput

_EXAMPLE = "Example: outpace bench tasks smollm2-135m-instruct --tasks capitals --folder my-tasks"


def register(group: typer.Typer) -> None:
    """Add the benchmark."""
    group.command("tasks", epilog=_EXAMPLE)(tasks)


def tasks(
    deployment: Annotated[str, typer.Argument(help="A deployment that serves.")],
    names: Annotated[str, typer.Option("--tasks", help="Tasks of lm-eval, or of the folder; with commas.")],
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Task files (YAML) of your own; then nothing is downloaded."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Samples per task.")] = None,
    completions: Annotated[
        bool, typer.Option("--completions", help="Send prompts as they are, without a chat template.")
    ] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Score a deployment on tasks that ask for a text (output_type: generate_until).

    Before and after a change of precision, this says in the words of a task what the gate says in nats.
    """
    from outpace.lab.tasks import TaskOrder, require_lm_eval, score

    require_lm_eval()
    wanted = tuple(name.strip() for name in names.split(",") if name.strip())
    if not wanted:
        raise InvalidInput("--tasks", "name at least one task")
    if folder is not None and not folder.is_dir():
        raise InvalidInput("--folder", f"{str(folder)[:200]!r} is no folder")
    credentials = read_credentials(home_at(home))
    order = TaskOrder(
        base_url=credentials.base_url,
        api_key=credentials.api_key,
        deployment=deployment,
        tasks=wanted,
        folder=folder,
        limit=limit,
        endpoint="completions" if completions else "chat",
    )
    with watching(f"{deployment}  {', '.join(wanted)}") as report:
        scores = score(order, report)
    if json:
        import msgspec

        as_json({"deployment": deployment, "scores": msgspec.to_builtins(scores)})
        return
    table(
        ("task", "metric", "score>", "±>", "samples>"),
        [
            (
                s.task,
                s.metric,
                f"{s.value:.4f}",
                None if s.error is None else f"{s.error:.4f}",
                str(s.num_samples),
            )
            for s in scores
        ],
        empty="lm-eval gave no scores",
    )
