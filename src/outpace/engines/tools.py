"""Tool choice for llama.cpp: what is shown, what is forced by grammar, and calls wrapped from forced JSON.

llama.cpp ignores `tool_choice` for templates that know no tools. Outpace forces `required` and named choices itself:
the answer follows a JSON schema made of the tools, and comes out as a tool call.
"""

from typing import Any

import msgspec

from outpace.values.errors import UnsupportedParameter
from outpace.values.requests import (
    AllowedToolsChoice,
    ChatRequest,
    CustomChoice,
    CustomTool,
    FunctionChoice,
    FunctionTool,
)


class ToolPlan(msgspec.Struct, frozen=True):
    """What becomes of a request's tools."""

    # Passed to the engine as they are, for the model to choose.
    offered: tuple[FunctionTool, ...] = ()
    # One of these must be called.
    forced: tuple[FunctionTool, ...] = ()

    @property
    def forced_name(self) -> str | None:
        """The function that will be called when only one can be."""
        return self.forced[0].function.name if len(self.forced) == 1 else None

    def schema(self) -> dict[str, Any]:
        """The schema of the forced answer: one function's arguments, or a name with its arguments."""
        if len(self.forced) == 1:
            return _arguments(self.forced[0])
        return {"anyOf": [_named(tool) for tool in self.forced]}


_NO_TOOLS = ToolPlan()


def plan_tools(request: ChatRequest, native_tools: bool) -> ToolPlan:
    """What to do with the tools. Raises UnsupportedParameter by name."""
    if not request.tools or request.tool_choice == "none":
        return _NO_TOOLS
    choice = request.tool_choice or "auto"
    if isinstance(choice, CustomChoice):
        raise UnsupportedParameter("tool_choice", "custom tools are not supported by this model's engine")
    tools = tuple(_functions(request))
    if isinstance(choice, FunctionChoice):
        return ToolPlan(forced=tuple(tool for tool in tools if tool.function.name == choice.function.name))
    if isinstance(choice, AllowedToolsChoice):
        names = {_allowed_name(tool) for tool in choice.allowed_tools.tools}
        tools = tuple(tool for tool in tools if tool.function.name in names)
        choice = choice.allowed_tools.mode
    if choice == "required":
        return ToolPlan(forced=tools)
    if not native_tools:
        raise UnsupportedParameter(
            "tools",
            "this model's chat template shows no tools, so the model cannot choose one by itself; "
            'use tool_choice "required" or name a function, or choose a model made for tools',
        )
    return ToolPlan(offered=tools)


def _functions(request: ChatRequest) -> list[FunctionTool]:
    functions = []
    for index, tool in enumerate(request.tools or ()):
        if isinstance(tool, CustomTool):
            raise UnsupportedParameter(
                f"tools[{index}]", "custom tools are not supported by this model's engine"
            )
        functions.append(tool)
    return functions


def _allowed_name(tool: dict[str, Any]) -> object:
    function = tool.get("function")
    return function.get("name") if isinstance(function, dict) else None


def _arguments(tool: FunctionTool) -> dict[str, Any]:
    return tool.function.parameters or {"type": "object"}


def _named(tool: FunctionTool) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": tool.function.name}, "arguments": _arguments(tool)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


class CallWrapper:
    """Turns the content of one choice, forced JSON, into the deltas of one tool call."""

    def __init__(self, call_id: str, name: str | None) -> None:
        self._id = call_id
        # None: the content names the function itself, and is kept until it is whole.
        self._name = name
        self._is_open = False
        self._kept = ""

    def delta(self, text: str) -> dict[str, Any] | None:
        """The delta for a piece of content; None while nothing can be told."""
        if self._name is None:
            self._kept += text
            return None
        if self._is_open:
            return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        self._is_open = True
        return self._first(self._name, text)

    def last(self) -> dict[str, Any]:
        """The delta at the end: the whole call when it was kept, else nothing."""
        if self._name is not None:
            return {}
        try:
            call = msgspec.json.decode(self._kept, type=_Call)
        except msgspec.DecodeError:
            # Cut by the token limit: no function can be named.
            return {}
        return self._first(call.name, bytes(call.arguments).decode())

    def _first(self, name: str, arguments: str) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        return {"tool_calls": [{"index": 0, "id": self._id, "type": "function", "function": function}]}


class _Call(msgspec.Struct):
    name: str
    arguments: msgspec.Raw
