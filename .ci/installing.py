"""Show pip's output as one line of progress: `pip install -r LOCK | installing.py LOCK`. Standard library only."""

import re
import sys


def main() -> None:
    """Read pip's lines from stdin; print what moves, keep what is wrong."""
    with open(sys.argv[1], encoding="utf-8") as lock:
        total = sum(1 for line in lock if re.match(r"[A-Za-z0-9]", line))
    is_terminal = sys.stdout.isatty()
    done = 0
    for line in sys.stdin:
        words = line.split()
        if line.startswith(("Collecting ", "Requirement already satisfied", "Ignoring ")):
            done += 1
            name = words[1] if line.startswith("Collecting") else ""
            _show(done, total, name, is_terminal)
        elif line.startswith("Installing collected"):
            _show(total, total, "unpacking", is_terminal)
        elif not line.startswith((" ", "Using cached", "Downloading", "Looking", "Successfully")):
            print(line, end="")
    if is_terminal:
        print("\r\033[K", end="")
    print(f"  installed {sys.argv[1]}")


def _show(done: int, total: int, name: str, is_terminal: bool) -> None:
    if is_terminal:
        bar = "▇" * (20 * done // max(total, 1))
        print(f"\r\033[K  installing {bar:<20} {done}/{total} {name[:40]}", end="", flush=True)
    elif done % 20 == 0 or name == "unpacking":
        print(f"  installing {done}/{total} {name[:40]}", flush=True)


if __name__ == "__main__":
    main()
