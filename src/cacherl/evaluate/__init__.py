"""Evaluate: a model plays tasks it has never seen, on live or replayed tools, and every task is scored.

episode     one episode: what the model did, or what the infrastructure did to it
stage       the evaluation of a recipe: every task once, scored by its gold
"""

from cacherl.evaluate.episode import NotScored
from cacherl.evaluate.stage import Evaluation, OnResult, OpenTools, evaluate

__all__ = ["Evaluation", "NotScored", "OnResult", "OpenTools", "evaluate"]
