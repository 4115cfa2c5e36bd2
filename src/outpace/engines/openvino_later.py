"""What an OpenVINO process does without at first: loaded beside the steps, by a thread, and taken over between two.

Each graph takes a second of one core (135M parameters), and the first answer needs one of three.
"""

import threading
from collections.abc import Callable
from typing import Any


class Later:
    """Loads things in their order, beside whatever else the process does."""

    def __init__(self, loads: dict[str, Callable[[], Any]]) -> None:
        self._loads = loads
        self._found: dict[str, Any] = {}
        self._num_loaded = 0
        self._failure = "loading ended early; the replica's log says why"
        self._thread: threading.Thread | None = None

    def begin(self, first: str = "") -> None:
        """Start loading, where that has not been done, this one first."""
        if self._thread is None:
            self._loads = dict(sorted(self._loads.items(), key=lambda one: one[0] != first))
            self._thread = threading.Thread(target=self._run, name="later", daemon=True)
            self._thread.start()

    @property
    def is_done(self) -> bool:
        """All is loaded and taken."""
        return self._thread is not None and not self._thread.is_alive() and not self._found

    def wait(self, timeout_s: float | None = None) -> None:
        """Until all is loaded, or for this long."""
        self.begin()
        assert self._thread is not None, "it was begun"
        self._thread.join(timeout_s)

    def take(self, name: str) -> Any | None:
        """What was loaded, once; None: not yet, or taken before. Raises RuntimeError when loading failed."""
        if self._thread is not None and not self._thread.is_alive() and self._num_loaded < len(self._loads):
            raise RuntimeError(self._failure)
        return self._found.pop(name, None)

    def _run(self) -> None:
        for name, load in self._loads.items():
            try:
                self._found[name] = load()
            except RuntimeError as error:
                self._failure = str(error)
                return
            self._num_loaded += 1
