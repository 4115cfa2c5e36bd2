"""The size report: lines per room, function lengths, and the one hard limit (a file of at most 500 lines)."""

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "outpace"
LARGEST_FILE_LINES = 500
AIMED_MEDIAN_LINES = 9
AIMED_P90_LINES = 30


def main() -> int:
    """Print the report; 1 when a file is too long."""
    files = {path: path.read_text(encoding="utf-8") for path in sorted(SOURCE.rglob("*.py"))}
    lengths = {path: list(function_lines(text)) for path, text in files.items()}
    lines = {path: text.count("\n") for path, text in files.items()}
    print(
        f"{'room':<12} {'files':>5} {'lines':>6} {'functions':>9} {'median':>6} {'p90':>4} {'longest file':>12}"
    )
    for room in sorted({_room(path) for path in files}):
        inside = [path for path in files if _room(path) == room]
        _print_row(room, [lines[path] for path in inside], [n for path in inside for n in lengths[path]])
    everything = [n for path in files for n in lengths[path]]
    _print_row("all", list(lines.values()), everything)
    _warn(everything)
    too_long = [path for path in files if lines[path] > LARGEST_FILE_LINES]
    for path in too_long:
        print(
            f"too long: {path.relative_to(SOURCE)} has {lines[path]} lines; {LARGEST_FILE_LINES} are the limit"
        )
    return 1 if too_long else 0


def function_lines(text: str) -> Iterator[int]:
    """Lines of every function from `def` to its end, without its docstring."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1 - _docstring_lines(node)


def percentile(values: list[int], percent: int) -> int:
    """The smallest value that so many percent of all do not exceed; 0 for none."""
    if not values:
        return 0
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    if ast.get_docstring(node) is None or len(node.body) == 1:
        return 0
    return (first.end_lineno or first.lineno) - first.lineno + 1


def _room(path: Path) -> str:
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else "(top)"


def _print_row(name: str, file_lines: list[int], lengths: list[int]) -> None:
    median = statistics.median(lengths) if lengths else 0
    print(
        f"{name:<12} {len(file_lines):>5} {sum(file_lines):>6,} {len(lengths):>9,} {median:>6.0f} "
        f"{percentile(lengths, 90):>4} {max(file_lines):>12}"
    )


def _warn(lengths: list[int]) -> None:
    median, p90 = statistics.median(lengths), percentile(lengths, 90)
    if median > AIMED_MEDIAN_LINES or p90 > AIMED_P90_LINES:
        print(
            f"functions grow: median {median:.0f} (aim {AIMED_MEDIAN_LINES}), p90 {p90} (aim {AIMED_P90_LINES})"
        )


if __name__ == "__main__":
    sys.exit(main())
