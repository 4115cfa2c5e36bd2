"""Write docs/reference/*.md from the code; `--check` only says whether they are up to date."""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer.main
from prometheus_client.metrics import MetricWrapperBase

from outpace.cli.app import COMMANDS, app_for
from outpace.control.metrics import Metrics
from outpace.engines.parameters import AT_THE_DOOR, FIELDS
from outpace.engines.registry import ENGINES, engine
from outpace.settings import Settings, variable_of
from outpace.values import errors
from outpace.values.deployment import Task
from outpace.values.errors import OutpaceError

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
DEFAULTS = Settings(home="")
HELP_COLUMNS = 100


def main(argv: list[str]) -> int:
    """Write or check; 1 when a page is not what the code says."""
    pages = {FOLDER / name: _page(make) for name, make in PAGES.items()}
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in argv:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what the code says; run `make reference`")
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


def cli() -> Iterator[str]:
    """Every command's help."""
    yield "# Commands"
    yield ""
    yield "Exit codes: 0 ok, 1 failed (one line on stderr says why and what to do), 2 wrong usage."
    yield "`--debug` anywhere shows where an error came from."
    group: Any = typer.main.get_command(app_for([]))
    root = group.make_context("outpace", [], resilient_parsing=True)
    for name in COMMANDS:
        yield from _command(group.commands[name], f"outpace {name}", root)


def _command(command: Any, path: str, parent: Any) -> Iterator[str]:
    context = command.context_class(
        command, info_name=path.split()[-1], parent=parent, terminal_width=HELP_COLUMNS
    )
    yield from ("", f"## {path}", "", "```")
    yield "\n".join(line.rstrip() for line in command.get_help(context).strip().splitlines())
    yield "```"
    for name, inner in getattr(command, "commands", {}).items():
        yield from _command(inner, f"{path} {name}", context)


def settings() -> Iterator[str]:
    """Every setting with its variable, type, default and meaning."""
    yield "# Settings"
    yield ""
    yield "`outpace up` takes a setting from its option, else from the environment, else the default."
    yield ""
    yield "| setting | variable | type | default | meaning |"
    yield "|---|---|---|---|---|"
    for name, kind, default, meaning in setting_rows():
        yield f"| `{name}` | `{variable_of(name)}` | {kind} | {default} | {meaning} |"


def setting_rows() -> list[tuple[str, str, str, str]]:
    """(name, type, default, meaning); the meaning is the comment above the field."""
    source = (ROOT / "src/outpace/settings.py").read_text("utf-8")
    lines = source.splitlines()
    body = next(
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == Settings.__name__
    )
    return [_setting_row(node, lines) for node in body if isinstance(node, ast.AnnAssign)]


def _setting_row(node: ast.AnnAssign, lines: list[str]) -> tuple[str, str, str, str]:
    meaning: list[str] = []
    above = node.lineno - 2
    while lines[above].strip().startswith("#"):
        meaning.insert(0, lines[above].strip().removeprefix("#").strip())
        above -= 1
    name = ast.unparse(node.target)
    default = f"`{getattr(DEFAULTS, name)}`" if node.value else "the user's data folder"
    return name, _kind(ast.unparse(node.annotation)), default, " ".join(meaning)


def _kind(annotation: str) -> str:
    """`int, ≥ 1, ≤ 256` for `Annotated[int, Meta(ge=1, le=256)]`; alternatives with `or` between."""
    text = re.sub(r"Annotated\[(\w+), Meta\((.*)\)\]", r"\1, \2", annotation)
    text = re.sub(r"Literal\[(.*)\]", lambda found: found[1].replace("'", "").replace(", ", " or "), text)
    return text.replace("ge=", "≥ ").replace("le=", "≤ ").replace(" | None", "")


def errors_page() -> Iterator[str]:
    """Every error with code, status, type and meaning."""
    yield "# Errors"
    yield ""
    yield 'Every answer that is no success is `{"error": {"message", "type", "param", "code"}}`; the message'
    yield "says what to do. After the first byte of a stream the same object comes as a `data:` event."
    yield ""
    yield "| code | status | type | meaning | SDKs retry |"
    yield "|---|---|---|---|---|"
    for error in sorted(error_classes(), key=lambda one: (one.status, str(one.code))):
        yield f"| `{error.code}` | {error.status} | `{error.kind}` | {_first_line(error)} | {_retry(error)} |"


def error_classes() -> list[type[OutpaceError]]:
    """The errors of values/errors.py, in its order."""
    return [
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, OutpaceError) and one.__module__ == errors.__name__
    ]


def _retry(error: type[OutpaceError]) -> str:
    if error.should_retry is not None:
        return "yes" if error.should_retry else "no (told by `x-should-retry`)"
    return "yes" if error.status in {408, 409, 429} or error.status >= 500 else "no"


def compatibility() -> Iterator[str]:
    """Endpoint × parameter × engine."""
    names = sorted(ENGINES)
    yield "# Compatibility"
    yield ""
    yield "What each engine does with each field of a request. **yes**: honoured. **door**: honoured by the gateway,"
    yield "the same for every engine. **–**: refused by name with `unsupported_parameter` (400), never dropped."
    yield from ("", "## Engines", "", "| engine | tasks | tested with |", "|---|---|---|")
    for name in names:
        able = engine(name).capabilities
        yield f"| {name} | {', '.join(sorted(able.tasks))} | {able.tested_with} |"
    for task, fields in FIELDS.items():
        yield from ("", f"## {task}", "")
        yield "| field | " + " | ".join(names) + " |"
        yield "|---|" + "---|" * len(names)
        for field in sorted(fields):
            yield f"| `{field}` | " + " | ".join(_support(name, task, field) for name in names) + " |"


def metrics() -> Iterator[str]:
    """Every metric with its kind, labels and meaning."""
    yield "# Metrics"
    yield ""
    yield "`GET /metrics` on the admin port, for Prometheus. Labels are bounded: never a key, a prompt or a request id."
    yield "Counters begin at zero when control starts. Besides these there are `outpace_control_*`: control's own"
    yield "CPU, memory and open files."
    yield ""
    yield "| metric | kind | labels | meaning |"
    yield "|---|---|---|---|"
    for name, kind, labels, meaning in metric_rows():
        yield f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |"


def metric_rows() -> list[tuple[str, str, tuple[str, ...], str]]:
    """(name as scraped, kind, labels, meaning), by name."""
    collectors = [one for one in vars(Metrics()).values() if isinstance(one, MetricWrapperBase)]
    rows = [(*_described(one), tuple(one._labelnames)) for one in collectors]
    return sorted((name, kind, labels, meaning) for name, kind, meaning, labels in rows)


def _described(collector: MetricWrapperBase) -> tuple[str, str, str]:
    (family,) = collector.describe()
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return name, family.type, family.documentation


def _support(name: str, task: Task, field: str) -> str:
    declared = engine(name).capabilities
    if task not in declared.tasks:
        return "–"
    if field in AT_THE_DOOR:
        return "door"
    return "yes" if field in declared.parameters.get(task, frozenset()) else "–"


def _first_line(documented: type) -> str:
    return (documented.__doc__ or "").strip().splitlines()[0]


def _page(make: Callable[[], Iterator[str]]) -> str:
    head = (
        "<!-- Written by docs/reference/generate.py (`make reference`); change the code, not this file. -->"
    )
    return "\n".join((head, "", *make(), ""))


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "cli.md": cli,
    "settings.md": settings,
    "errors.md": errors_page,
    "metrics.md": metrics,
    "compatibility.md": compatibility,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
