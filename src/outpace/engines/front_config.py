"""What the front of a server is told; adapters write it, `front_main` reads it."""

import msgspec


class FrontConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to start the server. In `argv`, `{port}` stands for its port, `{python}` for its interpreter and
    `{weights}` for the checkpoint folder.
    """

    socket_path: str
    argv: tuple[str, ...]
    # What to tell who has not got the program.
    missing: str
    # A checkpoint folder, or a GGUF to be unpacked among the artifacts; empty: the server brings its own.
    weights: str = ""
    model: str = ""
    artifacts_dir: str = ""
    # Variable that names the interpreter for `{python}`; unset: the one of Outpace.
    python_env: str = ""
    # The server takes `--config FILE` (YAML) with `api-key`, so that its port is closed to others too.
    takes_key_file: bool = False
