"""Whether a model is to be had from the Hugging Face Hub, found out before anything waits for it."""

from __future__ import annotations

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from cacherl.core.errors import ModelError

TIMEOUT_S = 10.0


def check_model(name: str) -> None:
    """Raise unless `name` is a model in the local cache of the hub, or one that the hub knows.

    The loader itself asks six times for each of several files before it says that a name means nothing.

    Raises:
        ModelError: no such folder and no such model, or the hub cannot be asked.
    """
    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        HfApi().model_info(name, timeout=TIMEOUT_S)
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise ModelError(
            f"{name}: no such model folder here, and no such model on Hugging Face. Name a folder with "
            "config.json, weights and a tokenizer, or correct the id (a private model needs `hf auth login`)."
        ) from error
    except Exception as error:  # whatever the client's HTTP library raises
        said = " ".join(str(error).split())[:160]
        raise ModelError(
            f"{name}: no such model folder here, and Hugging Face cannot be asked for it ({said}). Name a "
            "folder with config.json, weights and a tokenizer, or go online."
        ) from error
