"""A stand-in for a checkout of ACEBench: its layout and its rules, with a small world of our own.

two rooms, `BaseApi` (wifi, logged_in) and `ReminderApi` (reminder_list), imported by absolute name
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BASE_API = """
class BaseApi:
    def __init__(self):
        self.wifi = False
        self.logged_in = True

    def _load_scenario(self, scenario, long_context=False):
        self.wifi = scenario.get("wifi", False)
        self.logged_in = scenario.get("logged_in", True)

    def turn_on_wifi(self):
        self.wifi = True
        return {"status": True, "message": "wifi is on"}
"""

REMINDER = """
from model_inference.{kind}.scenarios{language}.phone_platform.base_api import BaseApi

NOTES = {{}}  # a module global: what a careless harness would share


class ReminderApi(BaseApi):
    def __init__(self):
        super().__init__()
        self.reminder_list = {{1: {{"title": "Dentist", "time": "09:30"}}}}
        self.seen = 0

    def _load_scenario(self, scenario, long_context=False):
        self.wifi = scenario.get("wifi", False)
        self.logged_in = scenario.get("logged_in", True)

    def add_reminder(self, title, time):
        if not self.wifi:
            return {{"status": False, "message": "wifi is off"}}
        self.reminder_list[len(self.reminder_list) + 1] = {{"title": title, "time": time}}
        return {{"status": True, "message": f"added {{title}}"}}

    def view_reminder(self, title):
        self.seen += 1
        return [each for each in self.reminder_list.values() if each["title"] == title]

    def explode(self):
        raise RuntimeError("the shelf fell down")
"""


def function(name: str, **properties: Any) -> dict[str, Any]:
    """Return a declaration as ACEBench writes them, with its `dict` for an object."""
    return {
        "name": name,
        "description": f"{name}.",
        "parameters": {"type": "dict", "required": list(properties), "properties": properties},
    }


TEXT = {"type": "string", "description": "text"}
PHONE = [
    function("turn_on_wifi"),
    function("add_reminder", title=TEXT, time=TEXT),
    function("view_reminder", title=TEXT),
    function("explode"),
    function("send_message", message=TEXT),  # offered, and of no class of the task, as there
]
START = {"title": "Dentist", "time": "09:30"}


def agent(
    number: int,
    question: str,
    *,
    kind: str = "multi_step",
    wifi: bool = False,
    title: str = "Milk",
    milestones: Any = None,
    reminder_class: str = "ReminderApi",
    reached: bool = True,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return one agent task and its answer."""
    id_ = f"agent_{kind}_{number}"
    task = {
        "id": id_,
        "question": question,
        "initial_config": {"BaseApi": {"wifi": wifi, "logged_in": True}},
        "path": [],
        "function": PHONE,
        "involved_classes": ["BaseApi", "ReminderApi"],
    }
    add = f"[add_reminder(title='{title}', time='10:00')]"
    gold = {
        "id": id_,
        "ground_truth": [
            {"BaseApi": {"wifi": True, "logged_in": True}},
            {
                reminder_class: {
                    "reminder_list": {
                        "1": START,
                        "2": {"title": title if reached else "Bread", "time": "10:00"},
                    }
                }
            },
        ],
        "mile_stone": milestones
        if milestones is not None
        else ([add] if wifi else ["[turn_on_wifi()]", add]),
    }
    return task, gold


STEPS = (
    agent(0, "Remind me of milk at ten."),
    agent(1, "Remind me of milk at ten.", wifi=True),
    agent(2, "Remind me of today's spending.", title="Today's spending"),
    agent(3, "Remind me of tea.", title="Tea", reached=False),
    agent(4, "Remind me of rice.", title="Rice", reminder_class="ReminderAPI"),
    agent(
        5,
        "Remind me of salt, after a look.",
        title="Salt",
        milestones=[
            ["[turn_on_wifi()]", "[add_reminder(title='Sugar', time='10:00')]"],
            [
                "[turn_on_wifi()]",
                "[view_reminder(title='Salt')]",
                "[add_reminder(title='Salt', time='10:00')] ",
            ],
        ],
    ),
)
TURNS = (
    agent(0, "You are Eve. You want a reminder of milk at ten.", kind="multi_turn"),
    agent(1, "You are Eve. You want a reminder of oil at ten.", kind="multi_turn", title="Oil"),
)

ORDER = function("order", item=TEXT, count={"type": "integer"}, gift={"type": "boolean"})
RATE = function("rate", stars={"type": "integer"})


def normal(
    id_: str, question: str, gold: Any, **more: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return one normal task and its answer."""
    task = {"id": id_, "question": question, "function": [ORDER, RATE], "time": "", **more}
    return task, {"id": id_, "ground_truth": gold}


TEA = {"order": {"item": "green tea", "count": 2, "gift": True}}
FILES = {
    "agent_multi_step": STEPS,
    "agent_multi_turn": TURNS,
    "normal_single_turn_single_function": (
        normal("normal_single_turn_single_function_0", "user: Two green teas, as a gift.\n", TEA),
        normal(
            "normal_single_turn_single_function_1",
            "user: One tea or one coffee.\n",
            [{"order": {"item": item, "count": 1, "gift": False}} for item in ("tea", "coffee")],
        ),
    ),
    "normal_single_turn_parallel_function": (
        normal(
            "normal_single_turn_parallel_function_0",
            "user: A tea and a cake.\n",
            {
                "order_1": {"item": "tea", "count": 1, "gift": False},
                "order_2": {"item": "cake", "count": 1, "gift": False},
            },
        ),
    ),
    "normal_multi_turn_user_adjust": (
        normal("normal_multi_turn_user_adjust_0_0", "user: A tea.\n", TEA),
        normal(
            "normal_multi_turn_user_adjust_0_1",
            'user: A tea.\nsystem: [order(item="tea")]\nuser: I give it five stars.\n',
            {"rate": {"stars": 5}},
        ),
    ),
    "normal_preference": (
        normal("normal_preference_0", "user: The usual.\n", TEA, profile="Loves {green} tea."),
    ),
    "special_incomplete": (
        normal("special_incomplete_0", "user: Order something.\n", {"order": ["item", "count"]}),
    ),
    "special_error_param": (
        normal("special_error_param_0", "user: Rate it -7.\n", {"stars": ["-7"]}),
    ),
    "special_irrelevant": (
        normal("special_irrelevant_0", "user: Sing a song.\n", "nothing can do that"),
    ),
}
EMPTY = (
    "normal_multi_turn_user_switch",
    "normal_similar_api",
    *(
        f"normal_atom_{kind}"
        for kind in ("bool", "enum", "list", "number", "object_deep", "object_short")
    ),
)


def build(folder: Path, *, language: str = "en", more: int = 0) -> Path:
    """Write the stand-in and return its folder.

    Args:
        folder: where to.
        language: of the data.
        more: this many multi_step tasks without a flaw, in place of those with some.
    """
    files = dict(FILES)
    if more:
        files["agent_multi_step"] = tuple(
            agent(n, f"Remind me of item {n}.", title=f"Item {n}") for n in range(more)
        )
    data = folder / "data_all" / f"data_{language}"
    (data / "possible_answer").mkdir(parents=True)
    for category, pairs in {**files, **dict.fromkeys(EMPTY, ())}.items():
        for place, rows in ((data, 0), (data / "possible_answer", 1)):
            text = "\n".join(json.dumps(pair[rows], ensure_ascii=False) for pair in pairs)
            (place / f"data_{category}.json").write_text(text, encoding="utf-8")
    inference = folder / "model_inference"
    for kind in ("multi_step", "multi_turn"):
        phone = inference / kind / f"scenarios{language}" / "phone_platform"
        phone.mkdir(parents=True)
        (phone / "base_api.py").write_text(BASE_API)
        (phone / "reminder.py").write_text(REMINDER.format(kind=kind, language=language))
        (inference / kind / "APIModel_agent.py").write_text(
            "import openai_is_not_installed\n"
            f'MULTI_TURN_AGENT_PROMPT_SYSTEM_{language.upper()} = "You write [Api(key=value)]."\n'
        )
    (inference / "multi_turn" / "APIModel_user.py").write_text(
        "import openai_is_not_installed\n"
        f'SYSTEM_PROMPT_BASE_{language.upper()} = """You are a user. Instruction: {{instruction}}"""\n'
    )
    prompts = [
        f'SYSTEM_PROMPT_FOR_{kind}_DATA_{language.upper()} = "{kind} {{time}}{{profile}} {{function}}"'
        for kind in ("NORMAL", "PREFERENCE", "SPECIAL")
    ]
    prompts.append(f'BASE_PROMPT_{language.upper()} = "Ask before you delete."')
    (inference / f"prompt_{language}.py").write_text("\n".join(prompts))
    return folder
