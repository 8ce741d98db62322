"""ACEBench's environments, taken from the checkout and made anew for every episode.

Its own runner keeps instances in module globals by model and test number, so that a second trial, or the
other language, starts where the first one ended. Here classes are loaded under private names, without
touching `sys.path`, and every episode gets instances of its own.
"""

from __future__ import annotations

import builtins
import copy
import hashlib
import importlib.util
import inspect
import json
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from cacherl.core.errors import DataError
from cacherl.core.messages import ToolCall
from cacherl.core.records import JsonObject
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult

SAVED: Mapping[str, tuple[str, ...]] = {
    "BaseApi": ("wifi", "logged_in"),
    "MessageApi": ("inbox",),
    "ReminderApi": ("reminder_list",),
    "FoodPlatform": ("users", "logged_in_users", "orders"),
    "Finance": (
        "user_accounts",
        "is_logged_in",
        "deposit_history",
        "withdrawal_history",
        "loan_history",
        "orders",
        "holdings",
    ),
    "Travel": ("users", "reservations"),
}
"""The attributes that are scored, by class: ACEBench's `SAVED_CLASS`. Nothing else of an instance is."""

BASE = "BaseApi"
_PACKAGE = "model_inference"
_LOADING = threading.RLock()


class Classes:
    """The environment classes of a checkout, loaded once.

    Args:
        checkout: where `model_inference/` lies.
        files: the files of the classes by class name.
    """

    def __init__(self, checkout: Path, files: Mapping[str, Path]) -> None:
        self._checkout = checkout.resolve()
        self._files = dict(files)
        digest = hashlib.sha256(str(self._checkout).encode()).hexdigest()[:12]
        self._prefix = f"_cacherl_acebench_{digest}"

    @property
    def names(self) -> frozenset[str]:
        """Every class there is."""
        return frozenset(self._files)

    def class_named(self, name: str) -> type:
        """Return the class.

        Raises:
            DataError: there is none, or its module fails to load.
        """
        if name not in self._files:
            raise DataError(
                f"{self._checkout}: no environment class {name}; there are "
                f"{', '.join(sorted(self._files))}. Check the checkout's commit."
            )
        path = self._files[name].resolve()
        try:
            module = self._module(self._dotted(path), path)
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"{path}: cannot be loaded ({type(error).__name__}: {error}). ACEBench's environments "
                "need nothing but Python: check the file out again."
            ) from error
        found = getattr(module, name, None)
        if not isinstance(found, type):
            raise DataError(f"{path}: holds no class {name}. Check the file out again.")
        return found

    def _dotted(self, path: Path) -> str:
        return ".".join(path.relative_to(self._checkout).with_suffix("").parts)

    def _module(self, dotted: str, path: Path) -> ModuleType:
        name = f"{self._prefix}.{dotted}"
        with _LOADING:
            if name in sys.modules:
                return sys.modules[name]
            found = importlib.util.spec_from_file_location(name, path)
            if found is None or found.loader is None:
                raise DataError(f"{path}: no Python file. Check the checkout's commit.")
            module = importlib.util.module_from_spec(found)
            # Its modules import one another by absolute names. An import statement asks the builtins of
            # its own module, so these can be led to the private names without anybody else's notice.
            module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
            sys.modules[name] = module
            try:
                found.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
            return module

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        dotted = name
        if level:
            here = str((globals or {}).get("__name__", "")).removeprefix(f"{self._prefix}.")
            dotted = ".".join([*here.split(".")[:-level], *([name] if name else [])])
        if dotted.split(".")[0] != _PACKAGE:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        path = self._checkout.joinpath(*dotted.split(".")).with_suffix(".py")
        if fromlist and path.is_file():
            return self._module(dotted, path)
        raise ImportError(
            f"`{name}` is imported as a package; CacheRL loads single files of {_PACKAGE} only"
        )


class Environment:
    """The instances of one episode.

    Args:
        classes: where the classes come from.
        involved: the classes of the task, in its order.
        config: its `initial_config`.
    """

    def __init__(self, classes: Classes, involved: Sequence[str], config: JsonObject) -> None:
        self._instances: dict[str, Any] = {}
        self.ran = False
        """Whether any call reached the instances. ACEBench saves no class before."""
        for name in involved:
            instance = classes.class_named(name)()
            # Twice, as ACEBench does: each class carries its own wifi and login.
            for part in (name, BASE):
                instance._load_scenario(copy.deepcopy(config.get(part, {})), long_context=False)
            self._instances[name] = instance

    def call(self, name: str, arguments: JsonObject) -> Any:
        """Call a method of that name on every instance that has one; the last result counts.

        Raises:
            LookupError: none has.
            Exception: whatever the method raises.
        """
        self.ran = True
        methods = [
            method
            for instance in self._instances.values()
            if not name.startswith("_")
            and inspect.ismethod(method := getattr(instance, name, None))
        ]
        if not methods:
            raise LookupError(f"no class of this task has {name}")
        result = None
        for method in methods:
            result = method(**copy.deepcopy(arguments))
        return result

    def saved(self) -> list[JsonObject]:
        """Return what is scored, one class an entry, as JSON holds it. Empty where nothing ran."""
        if not self.ran:
            return []
        return [
            {
                name: _as_json(
                    {
                        key: value
                        for key, value in vars(instance).items()
                        if key in SAVED.get(name, ())
                    }
                )
            }
            for name, instance in self._instances.items()
        ]

    def fingerprint(self) -> str:
        """Return a digest of every attribute of every instance."""
        state = {name: vars(instance) for name, instance in self._instances.items()}
        text = json.dumps(_as_json(state), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _as_json(value: Any) -> Any:
    # ACEBench compares what it wrote to a file: integer keys have become texts by then.
    return json.loads(json.dumps(value, ensure_ascii=False, default=str))


class EnvironmentTools:
    """The tools of one episode (`WorldTools`)."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    async def call(self, call: ToolCall) -> ToolResult:
        text, failed = answered(self._environment, call)
        return ToolResult(
            call_id=call.id,
            name=call.name,
            text=text,
            is_error=failed is not None,
            error_class=failed,
            tier=Tier.LIVE,
            source=Source.LIVE,
        )

    def fingerprint(self) -> str:
        return self._environment.fingerprint()

    async def aclose(self) -> None:
        pass


def answered(environment: Environment, call: ToolCall) -> tuple[str, ErrorClass | None]:
    """Make a call; return what the model is shown, and the kind of error where it is one.

    A `status: false` is an answer with which the tool refuses.
    """
    try:
        result = environment.call(call.name, call.arguments)
    except LookupError as error:
        return f"Error during execution: {error}", ErrorClass.NOT_FOUND
    except TypeError as error:
        return f"Error during execution: {error}", ErrorClass.VALIDATION
    except Exception as error:  # noqa: BLE001 - the environment is not ours, and the model may see it
        return f"Error during execution: {error}", ErrorClass.UNKNOWN
    text = result if isinstance(result, str) else json.dumps(_as_json(result), ensure_ascii=False)
    refused = isinstance(result, dict) and result.get("status") is False
    return text, ErrorClass.PERMISSION if refused else None
