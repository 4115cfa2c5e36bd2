"""Tools and tool choices that fit together; the old `functions` form becomes tools."""

import re
from collections.abc import Sequence

from outpace.gateway.openai.schemas import check_schema
from outpace.values.errors import InvalidInput
from outpace.values.requests import (
    AllowedToolsChoice,
    ChatRequest,
    CustomChoice,
    CustomTool,
    FunctionChoice,
    FunctionSpec,
    FunctionTool,
    NamedFunction,
)

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


def check_tools(request: ChatRequest) -> None:
    """Raise InvalidInput for tools that contradict each other; rewrite `functions` as `tools`."""
    if request.functions is not None or request.function_call is not None:
        _modernise(request)
    tools = request.tools or ()
    if not tools:
        if request.tool_choice not in (None, "none", "auto"):
            raise InvalidInput("tool_choice", "needs `tools`")
        return
    names = _names(tools)
    if isinstance(request.tool_choice, FunctionChoice):
        _require_known(request.tool_choice.function.name, names)
    elif isinstance(request.tool_choice, CustomChoice):
        _require_known(request.tool_choice.custom.name, names)
    elif isinstance(request.tool_choice, AllowedToolsChoice):
        for allowed in request.tool_choice.allowed_tools.tools:
            named = allowed.get("function") or allowed.get("custom") or allowed
            _require_known(named.get("name") if isinstance(named, dict) else None, names)


def _names(tools: Sequence[FunctionTool | CustomTool]) -> set[str]:
    names: set[str] = set()
    for index, tool in enumerate(tools):
        if isinstance(tool, FunctionTool):
            name = tool.function.name
            check_schema(tool.function.parameters, f"tools[{index}].function.parameters")
        else:
            name = _custom_name(tool, index)
        if name in names:
            raise InvalidInput(f"tools[{index}]", f"the name {name!r} is used twice")
        names.add(name)
    return names


def _custom_name(tool: CustomTool, index: int) -> str:
    name = tool.custom.get("name")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise InvalidInput(f"tools[{index}].custom.name", "must be 1 to 64 letters, digits, `_`, `-` or `.`")
    return name


def _require_known(name: object, names: set[str]) -> None:
    if name not in names:
        raise InvalidInput("tool_choice", f"names {str(name)[:64]!r}, which is not among the tools")


def _modernise(request: ChatRequest) -> None:
    if request.tools is not None or request.tool_choice is not None:
        raise InvalidInput("functions", "is the old form of `tools`; give one of them")
    functions: list[FunctionSpec] = request.functions or []
    request.tools = [FunctionTool(function=function) for function in functions] or None
    choice = request.function_call
    request.tool_choice = FunctionChoice(function=choice) if isinstance(choice, NamedFunction) else choice
    request.functions = request.function_call = None
