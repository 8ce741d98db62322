"""Rows of our own making, one good one a format, with the quirks that its data set has."""

from __future__ import annotations

import json
from typing import Any

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}


OSLO = ("get_weather", {"city": "Oslo"})
BERGEN = ("get_weather", {"city": "Bergen"})
"""The calls that most samples make."""


def function(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": tool}


def toucan() -> dict[str, Any]:
    """Every column a text; a parallel turn of two calls; reasoning beside the content."""
    messages = [
        {"role": "system", "content": "Use the tools."},
        {"role": "user", "content": "Oslo and Bergen?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "Two cities, two calls.",
            "function_call": {"name": "weather-get_weather", "arguments": '{"city": "Oslo"}'},
        },
        {
            "role": "assistant",
            "content": "",
            "function_call": {"name": "weather-get_weather", "arguments": '{"city": "Bergen"}'},
        },
        {"role": "function", "name": "weather-get_weather", "content": "sun"},
        {"role": "function", "name": "weather-get_weather", "content": "rain"},
        {"role": "assistant", "content": "Sun in Oslo, rain in Bergen."},
    ]
    tools = [{**WEATHER, "input_schema": WEATHER["parameters"]}]
    del tools[0]["parameters"]
    metadata = {
        "mcp_servers": [
            {"server_name": "Weather", "remote_server_response": {"tools": tools}},
        ]
    }
    return {
        "uuid": "u-1",
        "subset_name": "single-turn-original",
        "messages": json.dumps(messages),
        "question": "Oslo and Bergen?",
        "available_tools": "",
        "target_tools": "get_weather",
        "question_quality_assessment": json.dumps({"realism": {"reasoning": "x", "score": 4}}),
        "response_quality_assessment": json.dumps(
            {"overall_score": 4.5, "completeness": {"score": 5}}
        ),
        "metadata": json.dumps(metadata),
    }


def toolathlon() -> dict[str, Any]:
    """Nested parts as texts, and the verdict of the run."""
    messages = [
        {"role": "user", "content": "Tidy the sheet."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sun"}]},
        {"role": "assistant", "content": "Done."},
    ]
    return {
        "modelname_run": "some-model_2",
        "task_name": "tidy-sheet",
        "task_status": json.dumps({"preprocess": "done", "running": "done", "evaluation": True}),
        "config": json.dumps({"max_turns": 100}),
        "messages": json.dumps(messages),
        "tool_calls": json.dumps({"tools": [function(WEATHER)], "tool_choice": "auto"}),
        "key_stats": json.dumps({}),
        "agent_cost": json.dumps({}),
        "request_id": "r-1",
        "initial_run_time": "2025-10-01 10:00:00",
        "completion_time": "2025-10-01 10:05:00",
    }


def apigen() -> dict[str, Any]:
    """A thought as a tool call, then the call it leads to."""
    turns = [
        ("human", "Weather in Oslo?"),
        ("function_call", {"name": "think", "arguments": {"thought": "One call will do."}}),
        ("observation", ""),
        ("function_call", {"name": "get_weather", "arguments": {"city": "Oslo"}}),
        ("observation", '{"sky": "sun"}'),
        ("gpt", "Sun."),
    ]
    think = {"name": "think", "description": "Think.", "parameters": {"type": "object"}}
    return {
        "conversations": [
            {"from": who, "value": what if isinstance(what, str) else json.dumps(what)}
            for who, what in turns
        ],
        "tools": json.dumps([WEATHER, think]),
        "system": "You are a careful clerk.",
    }


def xlam() -> dict[str, Any]:
    """Parameters by name with Python types; answers without results."""
    tool = {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "city": {"type": "str", "description": "where"},
            "days": {"type": "int, optional", "description": "how long", "default": 3},
        },
    }
    answers = [
        {"name": "get_weather", "arguments": {"city": "Oslo"}},
        {"name": "get_weather", "arguments": {"city": "Bergen", "days": 1}},
    ]
    return {
        "id": 7,
        "query": "Oslo and Bergen?",
        "tools": json.dumps([tool]),
        "answers": json.dumps(answers),
    }


def toolace() -> dict[str, Any]:
    """Tools amid prose, names with spaces, one answer for two calls."""
    tools = [
        {
            "name": "Get Weather",
            "description": "Weather of a city.",
            "parameters": {
                "type": "dict",
                "properties": {"city": {"type": "string"}, "days": {"type": "int"}},
                "required": ["city"],
            },
        }
    ]
    answers = [
        {"name": "Get Weather", "results": {"sky": "sun"}},
        {"name": "Get Weather", "results": {"sky": "rain"}},
    ]
    return {
        "system": "You can compose functions. The current time is 2025-01-02 10:00:00. "
        f"Here is a list of functions in JSON format that you can invoke:\n{json.dumps(tools)}. \n"
        "Should you decide to return the function call(s), write [func1(a=1), func2()].\n",
        "conversations": [
            {"from": "user", "value": "Oslo and Bergen?"},
            {
                "from": "assistant",
                "value": '[Get Weather(city="Oslo"), Get Weather(city="Bergen", days=2)]',
            },
            {"from": "tool", "value": json.dumps(answers)},
            {"from": "assistant", "value": "Sun, rain."},
        ],
    }


def hermes() -> dict[str, Any]:
    """A call in Python's quotes, two responses in one entry."""
    return {
        "id": "h-1",
        "conversations": [
            {
                "from": "system",
                "value": "You are a function calling AI model. Here are the available tools: "
                f"<tools> {json.dumps([function(WEATHER)])} </tools> "
                "For each function call return a json object within <tool_call></tool_call> tags.",
            },
            {"from": "human", "value": "Oslo and Bergen?"},
            {
                "from": "gpt",
                "value": "<scratch_pad>two calls</scratch_pad>"
                '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
                "<tool_call>\n{'name': 'get_weather', 'arguments': {'city': 'Bergen'}}\n</tool_call>",
            },
            {
                "from": "tool",
                "value": '<tool_response>\n{"name": "get_weather", "content": {"sky": "sun"}}\n'
                "</tool_response>\n<tool_response>\nrain\n</tool_response>",
            },
            {"from": "gpt", "value": "Sun, rain."},
        ],
        "tools": json.dumps([function(WEATHER)]),
        "category": "Weather",
        "subcategory": "Cities",
        "task": "Compare",
    }


def glaive() -> dict[str, Any]:
    """Arguments between single quotes with an apostrophe inside; end marks; two functions in a row."""
    other = {
        "name": "send_mail",
        "description": "Sends.",
        "parameters": {"type": "object", "properties": {}},
    }
    return {
        "system": "SYSTEM: You are a helpful assistant with access to the following functions. "
        f"Use them if required -\n{json.dumps(WEATHER, indent=4)}\n\n{json.dumps(other, indent=4)}\n",
        "chat": "USER: Weather at O'Hara's?\n\n\nASSISTANT: <functioncall> "
        """{"name": "get_weather", "arguments": '{"city": "O'Hara"}'} <|endoftext|>"""
        '\n\n\nFUNCTION RESPONSE: {"sky": "sun"}\n\n\nASSISTANT: Sun.\nUSER: is a label here. '
        "<|endoftext|>\n\n\nUSER: Thanks!\n\n\nASSISTANT: Welcome. <|endoftext|>\n\n\n",
    }


def sharegpt() -> dict[str, Any]:
    """Two calls in one entry, and one observation with both answers."""
    calls = [
        {"name": "get_weather", "arguments": {"city": "Oslo"}},
        {"name": "get_weather", "arguments": {"city": "Bergen"}},
    ]
    return {
        "conversations": [
            {"from": "human", "value": "Oslo and Bergen?"},
            {"from": "function_call", "value": json.dumps(calls)},
            {"from": "observation", "value": json.dumps(["sun", {"sky": "rain"}])},
            {"from": "gpt", "value": "<think>easy</think>Sun, rain."},
        ],
        "system": "Be brief.",
        "tools": json.dumps([WEATHER]),
    }


def tau() -> dict[str, Any]:
    call = {"id": "c1", "function": {"name": "get_user_details", "arguments": '{"user_id": "u"}'}}
    return {
        "task_id": 3,
        "trial": 0,
        "reward": 1.0,
        "info": {"task": {"actions": [{"name": "get_user_details", "kwargs": {"user_id": "u"}}]}},
        "traj": [
            {"role": "system", "content": "policy"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "name": "get_user_details", "content": "{}"},
            {"role": "assistant", "content": "Hello."},
        ],
    }


def tau2() -> dict[str, Any]:
    """A greeting, a tool call of the user's, results in a bundle, a stop word."""

    def call(number: str, name: str, who: str, **arguments: Any) -> dict[str, Any]:
        return {"id": number, "name": name, "arguments": arguments, "requestor": who}

    def answer(number: str, content: str, who: str, *, error: bool = False) -> dict[str, Any]:
        return {"role": "tool", "id": number, "content": content, "requestor": who, "error": error}

    messages = [
        {"role": "assistant", "content": "Hi! How can I help?", "tool_calls": None},
        {"role": "user", "content": "My phone is offline.", "tool_calls": None},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                call("a1", "get_line", "assistant", line="L1"),
                call("a2", "get_line", "assistant", line="L2"),
            ],
        },
        {
            "role": "tool",
            "tool_messages": [
                answer("a1", '{"on": true}', "assistant"),
                answer("a2", "Error: no such line", "assistant", error=True),
            ],
        },
        {"role": "assistant", "content": "Toggle airplane mode.", "tool_calls": None},
        {
            "role": "user",
            "content": None,
            "tool_calls": [call("u1", "toggle_airplane_mode", "user")],
        },
        answer("u1", "on", "user"),
        {"role": "user", "content": "Done.", "tool_calls": None},
        {"role": "assistant", "content": "Then it works.", "tool_calls": None},
        {"role": "user", "content": "Yes. ###STOP###", "tool_calls": None},
    ]
    criteria = {
        "actions": [
            {
                "action_id": "1",
                "requestor": "assistant",
                "name": "get_line",
                "arguments": {"line": "L1"},
            },
            {
                "action_id": "2",
                "requestor": "user",
                "name": "toggle_airplane_mode",
                "arguments": {},
            },
        ],
        "communicate_info": ["works"],
    }
    return {
        "timestamp": "2025-06-01T00:00:00",
        "info": {
            "agent_info": {"implementation": "llm_agent", "llm": "some-model"},
            "environment_info": {"domain_name": "telecom", "policy": "Be kind.", "tool_defs": None},
        },
        "tasks": [{"id": "t1", "evaluation_criteria": criteria}],
        "simulations": [
            {
                "id": "s1",
                "task_id": "t1",
                "trial": 2,
                "seed": 5,
                "termination_reason": "user_stop",
                "reward_info": {"reward": 1.0},
                "messages": messages,
            }
        ],
    }


def inspect() -> dict[str, Any]:
    """A parse error, a tool error, reasoning parts, an attachment, tools in the model event."""
    return {
        "eval": {"task": "cities", "model": "provider/some-model"},
        "samples": [
            {
                "id": 1,
                "epoch": 2,
                "input": "Oslo?",
                "target": "sun",
                "messages": [
                    {"role": "system", "content": "Use the tools."},
                    {"role": "user", "content": "Oslo?"},
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "reasoning", "reasoning": "I need the tool."},
                            {"type": "text", "text": "Looking."},
                        ],
                        "tool_calls": [
                            {"id": "c1", "function": "get_weather", "arguments": {"city": "Oslo"}},
                            {
                                "id": "c2",
                                "function": "get_weather",
                                "arguments": {},
                                "parse_error": "Expecting value",
                            },
                        ],
                    },
                    {
                        "role": "tool",
                        "tool_call_id": "c1",
                        "function": "get_weather",
                        "content": "attachment://abc",
                    },
                    {
                        "role": "tool",
                        "tool_call_id": "c2",
                        "function": "get_weather",
                        "content": "",
                        "error": {"type": "parsing", "message": "Expecting value"},
                    },
                    {"role": "assistant", "content": "Sun."},
                ],
                "attachments": {"abc": "sun, all day long"},
                "scores": {"match": {"value": "C", "answer": "sun"}},
                "model_usage": {"provider/some-model": {"input_tokens": 10}},
                "events": [{"event": "model", "tools": [WEATHER]}],
            }
        ],
    }


def mcp() -> list[dict[str, Any]]:
    """Two calls at once, answers in the other order, a refusal, a call that nothing answers."""

    def asks(number: Any, method: str, **params: Any) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}

    def answers(number: Any, **more: Any) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": number, **more}

    def text(words: str) -> dict[str, Any]:
        return {"content": [{"type": "text", "text": words}], "isError": False}

    reads = {
        "name": "get_weather",
        "inputSchema": WEATHER["parameters"],
        "annotations": {"readOnlyHint": True},
    }
    writes = {"name": "send_mail", "inputSchema": {"type": "object"}}
    return [
        asks(0, "initialize", clientInfo={"name": "some-client", "version": "1"}),
        answers(0, result={"capabilities": {}}),
        asks(1, "tools/list"),
        answers(1, result={"tools": [reads, writes]}),
        asks(2, "tools/call", name="get_weather", arguments={"city": "Oslo"}),
        asks(3, "tools/call", name="get_weather", arguments={"city": "Bergen"}),
        asks(2, "roots/list"),
        answers(2, result={"roots": []}),
        answers(3, result={**text("rain"), "structuredContent": {"sky": "rain"}}),
        answers(2, result=text("sun")),
        asks("x", "tools/call", name="no_tool", arguments={}),
        answers("x", error={"code": -32601, "message": "Unknown tool"}),
        asks(5, "tools/call", name="send_mail", arguments={"to": "a"}),
    ]


def otel() -> list[dict[str, Any]]:
    """A line each: two model calls, the tool between them, a span of a web server."""
    system = [{"type": "text", "content": "Use the tools."}]
    asked = {"role": "user", "parts": [{"type": "text", "content": "Oslo?"}]}
    called = {
        "role": "assistant",
        "parts": [
            {"type": "reasoning", "content": "I need the tool."},
            {"type": "tool_call", "id": "c1", "name": "get_weather", "arguments": {"city": "Oslo"}},
        ],
    }
    again = {"role": "assistant", "parts": called["parts"][1:]}  # sent back without the reasoning
    answered = {
        "role": "tool",
        "parts": [{"type": "tool_call_response", "id": "c1", "response": "sun"}],
    }
    final = {
        "role": "assistant",
        "parts": [{"type": "text", "content": "Sun."}],
        "finish_reason": "stop",
    }
    tool = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "get_weather",
        "gen_ai.tool.call.id": "c1",
        "gen_ai.tool.call.arguments": json.dumps({"city": "Oslo"}),
        "gen_ai.tool.call.result": json.dumps("sun"),
    }
    chat = {
        "gen_ai.operation.name": "chat",
        "gen_ai.conversation.id": "conv-1",
        "gen_ai.request.model": "some-model",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.system_instructions": json.dumps(system),
        "gen_ai.tool.definitions": json.dumps([{"type": "function", **WEATHER}]),
    }
    first = {
        **chat,
        "gen_ai.input.messages": json.dumps([asked]),
        "gen_ai.output.messages": json.dumps([called]),
    }
    second = {
        **chat,
        "gen_ai.input.messages": json.dumps([asked, again, answered]),
        "gen_ai.output.messages": json.dumps([final]),
    }
    return [
        export("t1", "chat some-model", 3, second),
        export("t1", "GET /", 0, {"http.request.method": "GET"}),
        export("t1", "execute_tool get_weather", 2, tool),
        export("t1", "chat some-model", 1, first),
    ]


def export(
    trace: str, name: str, start: int, attributes: dict[str, Any], *, failed: bool = False
) -> dict[str, Any]:
    """Return one span as the collector's file exporter writes a line."""
    span = {
        "traceId": trace,
        "spanId": f"{trace}{start}",
        "name": name,
        "startTimeUnixNano": str(start),
        "attributes": [{"key": k, "value": typed(v)} for k, v in attributes.items()],
        "status": {"code": 2} if failed else {},
    }
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": [span]}]}]}


def typed(value: Any) -> dict[str, Any]:
    """Return a value as OTLP types it."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, list):
        return {"arrayValue": {"values": [typed(each) for each in value]}}
    if isinstance(value, dict):
        return {
            "kvlistValue": {"values": [{"key": k, "value": typed(v)} for k, v in value.items()]}
        }
    return {"stringValue": value}
