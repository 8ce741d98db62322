"""How many tokens a text is, by a model's own tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer

from cacherl.core.errors import ModelError


def token_counter(name: str) -> Callable[[str], int]:
    """Return the counter of a tokenizer: a tokenizer.json, the folder of a model, or a Hugging Face id.

    Raises:
        ModelError: there is no such tokenizer.
    """
    path = Path(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if file.is_file():
            tokenizer = Tokenizer.from_file(str(file))
        else:
            tokenizer = Tokenizer.from_pretrained(name)
    except Exception as error:  # the library raises bare Exceptions for whatever goes wrong
        raise ModelError(
            f"{name}: no tokenizer ({error}). Name a folder with tokenizer.json, or a Hugging Face id."
        ) from error

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return count
