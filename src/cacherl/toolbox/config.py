"""`tools.toml`: where live tools come from, and what the person who runs them knows of each.

    namespace = "office"          # part of every cache key
    resets = false                # true: every episode starts on a fresh state
    scenario = "/srv/sandbox"     # for tasks that name none, and to list tools
    [policy]                      # for all tools
    timeout_s = 60
    [mcp.files]
    command = "npx"
    args = ["-y", "@modelcontextprotocol/server-filesystem", "{scenario}"]
    [python.shop]
    module = "shop.py"
    [openapi.billing]
    spec = "billing.json"
    headers = { Authorization = "Bearer ${BILLING_TOKEN}" }
    [tools.get_order]             # wins over what the source says
    reads = ["order:{order_id}"]
    writes = []

Relative paths start at the file's folder. `${VAR}` is filled in from the environment when the tools
are opened, never before and never into anything that is written; `$${` is a plain `${`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from cacherl.core.errors import RecipeError
from cacherl.core.records import JsonObject, Record
from cacherl.core.tools import ToolSpec
from cacherl.toolbox.policy import CallPolicy, Seconds, ToolRule


class McpSection(Record, frozen=True, kw_only=True):
    """`[mcp.NAME]`: a server that is started (`command`), or one that runs already (`url`)."""

    command: str | None = None
    """A program, not a shell line. With a slash in it, a relative path starts at the file's folder."""
    args: tuple[str, ...] = ()
    """`{scenario}` stands for the episode's scenario; in `env` and `url` too."""
    env: dict[str, str] = {}
    """Added to the few variables (PATH, HOME, ...) that a server gets."""
    cwd: str | None = None
    """The file's folder unless told."""
    url: str | None = None
    headers: dict[str, str] = {}
    only: tuple[str, ...] = ()
    """The tools to offer, by the server's names; all of them unless told."""
    prefix: bool = False
    """Offer every tool as `NAME__tool`."""
    start_timeout_s: Seconds = 30.0
    resets: bool | None = None
    """Whether a server opened for an episode starts afresh. Taken to be so where it is started here and
    `{scenario}` says where its state lies."""

    def __post_init__(self) -> None:
        if (self.command is None) == (self.url is None):
            raise ValueError(
                "needs either `command` (a server to start) or `url` (one that runs already)"
            )
        other = ("headers",) if self.url is None else ("args", "env", "cwd")
        for key in other:
            if getattr(self, key):
                raise ValueError(
                    f"`{key}` means nothing beside `{'command' if self.url is None else 'url'}`"
                )


class PythonSection(Record, frozen=True, kw_only=True):
    """`[python.NAME]`: a module of functions."""

    module: str
    """`shop.py`, a file; or a dotted module, `shop.tools`, which may lie beside the file."""
    only: tuple[str, ...] = ()
    prefix: bool = False
    resets: bool | None = None
    """Whether its functions start afresh with each episode. Taken to be so where it has `open_tools`."""


class OpenApiSection(Record, frozen=True, kw_only=True):
    """`[openapi.NAME]`: an HTTP service, described by an OpenAPI 3 document."""

    spec: str
    """A JSON or YAML file, or a URL."""
    server: str | None = None
    """Where the service runs, over what the document says."""
    headers: dict[str, str] = {}
    """Sent with every call; a parameter of such a name is no longer asked of the model."""
    query: dict[str, str] = {}
    """The same for the query string: `{ api_key = "${KEY}" }`."""
    only: tuple[str, ...] = ()
    prefix: bool = False
    resets: bool | None = None
    """Whether the service starts afresh with each episode. Never taken to be so."""


class ToolsFile(Record, frozen=True, kw_only=True):
    """Everything a `tools.toml` says."""

    namespace: Annotated[str, msgspec.Meta(min_length=1)]
    """Part of every cache key."""
    resets: bool = False
    """Whether every episode starts on a fresh state. Refused where a source with tools that write does
    not (see `resets` of each)."""
    scenario: str = ""
    """What `{scenario}` stands for where a task names none, and when tools are listed."""
    policy: CallPolicy = CallPolicy()
    """Holds for every tool unless `[tools.NAME]` says otherwise."""
    mcp: dict[str, McpSection] = {}
    python: dict[str, PythonSection] = {}
    openapi: dict[str, OpenApiSection] = {}
    tools: dict[str, ToolRule] = {}
    """By offered name. What is not said of a tool stays as its source says."""

    def sources(self) -> tuple[str, ...]:
        """Return the names of all sources, in the order in which their tools are offered."""
        return (*self.mcp, *self.python, *self.openapi)


# ---- reading -----------------------------------------------------------------------------------

_S = TypeVar("_S", bound=Record)
_KINDS: Mapping[str, type[Record]] = {
    "mcp": McpSection,
    "python": PythonSection,
    "openapi": OpenApiSection,
    "tools": ToolRule,
}
_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z")
_EXAMPLE = 'Add one, such as:  [python.shop]  module = "shop.py"'


def read_tools(path: Path) -> ToolsFile:
    """Read a `tools.toml`.

    Raises:
        RecipeError: the file is missing, is no TOML, or a key or value is wrong; says which, and which
            keys there are.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecipeError(
            f'{path}: no such file. Write one, such as:  namespace = "shop"  [python.shop]  '
            'module = "shop.py"'
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error}). Give a TOML file.") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not TOML: {error}. Correct that line.") from error
    return tools_of(data, str(path))


def tools_of(data: JsonObject, where: str) -> ToolsFile:
    """Return what a decoded `tools.toml` says.

    Raises:
        RecipeError: see `read_tools`.
    """
    _known(data, ToolsFile, where, "")
    plain = {key: value for key, value in data.items() if key not in _KINDS and key != "policy"}
    found: dict[str, Any] = {
        "policy": _section(data.get("policy", {}), CallPolicy, where, "policy")
    }
    for kind, section in _KINDS.items():
        tables = data.get(kind, {})
        if not isinstance(tables, dict):
            raise RecipeError(f"{where}: `{kind}` is no table. Write [{kind}.NAME].")
        found[kind] = {
            name: _section(table, section, where, f"{kind}.{name}")
            for name, table in tables.items()
        }
    if "namespace" not in plain:
        raise RecipeError(
            f"{where}: `namespace` is missing: it keeps the results of other tools out of the cache. "
            'Write namespace = "shop".'
        )
    try:
        rest = msgspec.convert(plain, _Plain)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{where}: {_told(error)}. Correct that key.") from error
    tools = ToolsFile(**msgspec.structs.asdict(rest), **found)
    _check_names(tools, where)
    return tools


class _Plain(Record, frozen=True, kw_only=True):
    namespace: Annotated[str, msgspec.Meta(min_length=1)]
    resets: bool = False
    scenario: str = ""


def _section(table: Any, kind: type[_S], where: str, name: str) -> _S:
    if not isinstance(table, dict):
        raise RecipeError(f"{where}: `{name}` is no table. Write [{name}].")
    _known(table, kind, where, name)
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{where}: [{name}]: {_told(error)}. Correct that key.") from error


def _known(table: JsonObject, kind: type[Record], where: str, name: str) -> None:
    keys = [field.name for field in msgspec.structs.fields(kind)]
    for key in table:
        if key not in keys:
            at = f"[{name}] has" if name else "there is"
            raise RecipeError(
                f"{where}: {at} no key `{key}`{did_you_mean(key, keys)}. "
                f"There are: {', '.join(keys)}."
            )


def _told(error: msgspec.ValidationError) -> str:
    return re.sub(r" - at `\$\.?(.*?)`", lambda m: f" - at `{m[1]}`" if m[1] else "", str(error))


def _check_names(tools: ToolsFile, where: str) -> None:
    names = tools.sources()
    if not names:
        raise RecipeError(f"{where}: no tools come from anywhere. {_EXAMPLE}")
    for name in names:
        if not _SOURCE_NAME.match(name) or "__" in name:
            raise RecipeError(
                f"{where}: {name!r} is no name of a source. Use letters, digits, - and single _."
            )
        if names.count(name) > 1:
            raise RecipeError(f"{where}: two sources are called {name!r}. Rename one.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean x?)` for a mistyped name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean `{near[0]}`?)" if near else ""


# ---- what is said of a tool --------------------------------------------------------------------


_FIELD = re.compile(r"\{([^{}]+)\}")


def effects_problem(spec: ToolSpec) -> str | None:
    """Return what is wrong with a tool's effects, in words, or None.

    A template over a parameter that the tool does not have would stand for its whole kind, and
    nobody would see the typo.
    """
    properties = spec.parameters.get("properties", {})
    if spec.parameters.get("additionalProperties"):
        return None
    for template in (*spec.effects.reads, *spec.effects.writes):
        for field in _FIELD.findall(template):
            name = field.split(".")[0]
            if name != "result" and name not in properties:
                return (
                    f"its effects name {template!r}, and it has no parameter {name!r}"
                    f"{did_you_mean(name, properties)}; it has {', '.join(properties) or 'none'}"
                )
    return None


# ---- the environment ---------------------------------------------------------------------------

_VARIABLE = re.compile(r"\$(\$\{|\{([A-Za-z_][A-Za-z0-9_]*)\})")


def filled(text: str, environ: Mapping[str, str], where: str) -> str:
    """Return the text with every `${VAR}` from the environment; `$${` becomes a plain `${`.

    Args:
        text: a value of the file.
        environ: the environment.
        where: file and key, for the error. The text itself is never told.

    Raises:
        RecipeError: a variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        if match[2] is None:
            return "${"
        if match[2] not in environ:
            raise RecipeError(
                f"{where}: the environment variable {match[2]} is not set. "
                f"Set it: `export {match[2]}=...`."
            )
        return environ[match[2]]

    return _VARIABLE.sub(value, text)


SECRET_CHARACTERS = 8
"""No key is shorter, and blotting out every `80` of an answer would spoil it."""


def secrets_in(texts: Iterable[str], environ: Mapping[str, str]) -> frozenset[str]:
    """Return what the `${VAR}`s of some values stand for, where it may be a key."""
    found = {match[2] for text in texts for match in _VARIABLE.finditer(text) if match[2]}
    values = (environ.get(name, "") for name in found)
    return frozenset(value for value in values if len(value) >= SECRET_CHARACTERS)
