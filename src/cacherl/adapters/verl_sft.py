"""verl's multi-turn SFT dataset for files whose tools are JSON text.

verl 0.9 hands the `tools` column to the chat template as it is. As objects the tools of a table would all
have one another's parameters as nulls, so `cacherl export --format verl-sft` writes them as text; this reads
it. In verl's recipe: `data.custom_cls.path=pkg://cacherl.adapters.verl_sft
data.custom_cls.name=ToolsAsTextDataset`.

Source: verl 0.9.1, `utils/dataset/multiturn_sft_dataset.py`, `trainer/sft_trainer.py`.
"""

from __future__ import annotations

import json
from typing import Any

from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset


class ToolsAsTextDataset(MultiTurnSFTDataset):
    """Reads `tools` from JSON text, and leaves out the keys of a message that Arrow filled with nulls."""

    tools: list[Any] | None

    def _read_files_and_process(self) -> None:
        super()._read_files_and_process()
        if self.tools is not None:
            self.tools = [
                json.loads(each) if isinstance(each, str) else each for each in self.tools
            ]

    def _build_messages(self, example: dict[str, Any]) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = super()._build_messages(example)
        return [{k: v for k, v in each.items() if v is not None} for each in messages]
