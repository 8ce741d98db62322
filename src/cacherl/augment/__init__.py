"""Augment: give every assistant turn the reasoning that leads to it.

A recorded trajectory shows what an expert did; `augment` adds why, as `thinking`. Tool calls and
tool results stay as they are, byte for byte.

    turn                         treatment                                      teacher call
    already has thinking         kept (or made anew: `keep_thinking=False`)     no
    ANALYTICAL  calls + reasons  the words move into thinking                   no
    USER_FACING calls            new reasoning: why this call, now              yes
    FINAL       no call          new reasoning, always                          yes

turns        kinds of turns, and what each needs
reasoners    who knows why: a script, or a teacher model; what it is shown
leaks        what a reason knows too early
faults       what may be wrong with a reason: nothing said, the future, another language
stage        trajectories in, the same with reasoning out
folder       a whole data folder, and what it cost
rehearsal    what that would ask and cost

Source: CacheRL, arXiv:2606.14179, knowledge transfer.
"""

from cacherl.augment.faults import Fault
from cacherl.augment.leaks import leaks
from cacherl.augment.reasoners import ChatReasoner, FunctionReasoner, Reason, Reasoner
from cacherl.augment.stage import AugmentSummary, augment, require_all, unchanged_calls
from cacherl.augment.turns import AugmentOptions, Treatment, TurnClass, treatment, turn_class

__all__ = [
    "AugmentOptions",
    "AugmentSummary",
    "ChatReasoner",
    "Fault",
    "FunctionReasoner",
    "Reason",
    "Reasoner",
    "Treatment",
    "TurnClass",
    "augment",
    "leaks",
    "require_all",
    "treatment",
    "turn_class",
    "unchanged_calls",
]
