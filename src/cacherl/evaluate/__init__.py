"""Evaluate: a model plays tasks it has never seen, on live or replayed tools, and every task is scored.

episode      one episode: what the model did, or what the infrastructure did to it
scoring      what an episode is worth: the suite's verdict, metrics, why it failed
results      `results.jsonl`: a line a task and trial, enough to check it again without a model
run          every task and trial that has no line yet
bounds       what doing nothing and what gold earn on exactly these tasks
folder       the folder of one evaluation, and what it is of
into_folder  all of that together: `cacherl eval`
summary      every figure with n, interval, floor and ceiling
explain      one row: transcript, wrong calls, what its checker missed
compare      two folders, paired by task
reliability  chains of calls: how far to trust them, and what they cost
rescore      verdicts and metrics again, from what is on file
provenance   which code and which machine
stage        the evaluation of a recipe: every task once, scored by its gold
"""

from cacherl.evaluate.episode import NotScored
from cacherl.evaluate.stage import Evaluation, OnResult, OpenTools, evaluate

__all__ = ["Evaluation", "NotScored", "OnResult", "OpenTools", "evaluate"]
