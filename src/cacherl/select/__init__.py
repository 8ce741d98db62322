"""Select: keep the trajectories worth learning from, without losing tools on the way.

verdicts     rejection sampling: what verifiers, judge or the data set's score say of one trajectory
judges       a model asked several times where no verifier knows
duplicates   one lesson twice, and held-out tasks among the training tasks
balance      what is kept together, so that diversity survives; how varied a set is
stage        two passes over a file
folder       a whole data folder: selected.jsonl, judgements.jsonl, card.json
card         what a training set holds, as figures

Source: CacheRL, arXiv:2606.14179, rejection-sampled (v3) and combined (v4) SFT data.
"""

from cacherl.select.balance import Diversity, Selection
from cacherl.select.duplicates import HeldOutTexts
from cacherl.select.options import SelectOptions
from cacherl.select.stage import choose, judge_all, select
from cacherl.select.verdicts import Judgement, Scorers, Verdict

__all__ = [
    "Diversity",
    "HeldOutTexts",
    "Judgement",
    "Scorers",
    "SelectOptions",
    "Selection",
    "Verdict",
    "choose",
    "judge_all",
    "select",
]
