"""What can stop a command.

    CacheRLError            one clear line at the terminal, exit code 1
    ├── RecipeError         a recipe or an option is wrong (exit code 2)
    ├── DataError           a file does not hold what it should (names file, line, field)
    ├── CacheError          a cache cannot be opened, read or trusted
    ├── ModelError          a model cannot be loaded or reached
    ├── BudgetError         the money or the tokens allowed are spent; what was bought is kept (exit code 3)
    ├── ToolError           a tool server or a tool world cannot be used
    ├── HubError            the Hub cannot be reached, or refuses
    └── MissingExtraError   an optional package is not installed

Bad rollouts are never exceptions: a malformed call, an unknown tool, a failing tool or a
cache miss becomes a `ToolResult` that the model sees and the reward counts.
"""


class CacheRLError(Exception):
    """Anything the person at the terminal can act on. The message is one line and ends with a fix."""

    exit_code = 1


class RecipeError(CacheRLError):
    """A recipe or a command-line option is wrong."""

    exit_code = 2


class DataError(CacheRLError):
    """A file does not hold what it should."""


class CacheError(CacheRLError):
    """A cache cannot be opened, read or trusted."""


class ModelError(CacheRLError):
    """A model cannot be loaded or reached."""

    kind: str | None = None
    """Why, in a word that can be counted (`teacher.failure.Failure`), where that is known."""


class BudgetError(CacheRLError):
    """The money or the tokens allowed are spent. Not a failure of model or tools: stop, keep, resume."""

    exit_code = 3


class ToolError(CacheRLError):
    """A tool server or a tool world cannot be used at all (one failing call is a `ToolResult`)."""


class HubError(CacheRLError):
    """The Hub of models and data sets cannot be reached, or refuses."""


class MissingExtraError(CacheRLError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed. "
            f"Install it with `pip install 'cacherl[{extra}]'`."
        )
