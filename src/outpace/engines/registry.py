"""Engine adapters by name: a table from name to path, so that adding one is one line."""

import importlib
from functools import cache
from typing import cast

from outpace.engines.protocol import Engine
from outpace.values.errors import InvalidInput

ENGINES: dict[str, str] = {
    "echo": "outpace.engines.echo:Echo",
    "external": "outpace.engines.external:ExternalApi",
    "llamacpp": "outpace.engines.llamacpp:LlamaCpp",
    "openvino": "outpace.engines.openvino:OpenVino",
    "sglang": "outpace.engines.sglang:Sglang",
    "tensorrt-llm": "outpace.engines.tensorrt_llm:TensorRtLlm",
    "triton": "outpace.engines.triton:Triton",
    "triton-kserve": "outpace.engines.triton_kserve:TritonKserve",
    "vllm": "outpace.engines.vllm:Vllm",
}


def engine(name: str) -> Engine:
    """The adapter called `name`. Raises InvalidInput that lists the known ones."""
    if name not in ENGINES:
        raise InvalidInput("engine", f"{name!r} is not known; choose one of {', '.join(sorted(ENGINES))}")
    return _load(name)


@cache
def _load(name: str) -> Engine:
    module_name, class_name = ENGINES[name].split(":")
    adapter = getattr(importlib.import_module(module_name), class_name)()
    return cast(Engine, adapter)
