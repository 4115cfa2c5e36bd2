"""Where everything lies under OUTPACE_HOME; one place, so that no other file builds such a path."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

# sun_path holds 108 bytes on Linux; the name of a socket needs some of them.
_LONGEST_SOCKET_DIR = 60


class Home:
    """The folder of one installation and the names inside it."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    @property
    def credentials(self) -> Path:
        """URLs and keys for the CLI, mode 0600."""
        return self.root / "credentials.json"

    @property
    def database(self) -> Path:
        """The SQLite file of control."""
        return self.root / "outpace.db"

    @property
    def artifacts(self) -> Path:
        """Weights, content-addressed."""
        return self.root / "artifacts"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """What is true only while the platform runs; 0700."""
        return self.root / "run"

    @property
    def profiles(self) -> Path:
        """What was measured of variants, one file each."""
        return self.root / "profiles"

    @property
    def starts(self) -> Path:
        """What the last starts of each deployment cost, a file per deployment."""
        return self.root / "starts"

    @property
    def snapshot(self) -> Path:
        """What the gateway knows, replaced atomically."""
        return self.root / "run" / "snapshot.json"

    @property
    def journal(self) -> Path:
        """One append-only file per life of a gateway worker."""
        return self.root / "journal"

    @property
    def counters(self) -> Path:
        """Shared memory of quotas: survives a restart of any process."""
        return self.root / "run" / "counters"

    @property
    def supervisor(self) -> Path:
        """Who runs here: pid and start time of the supervisor, JSON."""
        return self.root / "run" / "supervisor.json"

    @property
    def sockets(self) -> Path:
        """Folder for Unix sockets, short enough for the kernel; 0700."""
        inside = self.root / "run" / "s"
        if len(os.fsencode(inside)) <= _LONGEST_SOCKET_DIR:
            return inside
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"outpace-{os.getuid()}-{digest}"

    @property
    def ray_socket(self) -> Path:
        """Where the Ray pool takes its orders."""
        return self.sockets / "ray.sock"

    def remove_sockets(self) -> None:
        """Remove the sockets of ended processes, and their folder, which may lie outside the home."""
        for left in self.sockets.glob("*.sock"):
            left.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.sockets.rmdir()

    def make(self) -> None:
        """Create the folders with safe modes."""
        for folder in (self.root, self.run, self.sockets, self.journal, self.logs, self.artifacts):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder in (self.run, self.sockets):
                _require_private(folder)


def _require_private(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; set OUTPACE_HOME to a folder of your own")
    folder.chmod(0o700)
