"""Run pip and show one line of progress: `installing.py LOCK COMMAND…`. Standard library only.

Everything that pip said is printed when it fails, and nothing of it when it does not.
"""

import re
import subprocess
import sys
import time


def main() -> int:
    """Exit code of pip."""
    lock_path, command = sys.argv[1], sys.argv[2:]
    with open(lock_path, encoding="utf-8") as lock:
        total = sum(1 for line in lock if re.match(r"[A-Za-z0-9]", line))
    started_s, said = time.monotonic(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        assert pip.stdout is not None
        done = 0
        for line in pip.stdout:
            said.append(line)
            counted = re.match(r"(?:Collecting|Requirement already satisfied:|Ignoring) ([\w.-]+)", line)
            if counted:
                done += 1
                _show(min(done, total), total, counted[1])
            elif line.startswith("Installing collected"):
                _show(total, total, "unpacking")
    _clear()
    if pip.returncode != 0:
        sys.stderr.writelines(said)
        return pip.returncode
    print(f"  installed {lock_path} ({total} packages, {time.monotonic() - started_s:.0f} s)")
    return 0


def _show(done: int, total: int, name: str) -> None:
    if sys.stdout.isatty():
        bar = "▇" * (20 * done // total)
        print(f"\r\033[K  installing {bar:<20} {done}/{total} {name[:40]}", end="", flush=True)
    elif done % 20 == 0 or name == "unpacking":
        print(f"  installing {done}/{total} {name}", flush=True)


def _clear() -> None:
    if sys.stdout.isatty():
        print("\r\033[K", end="")


if __name__ == "__main__":
    raise SystemExit(main())
