"""Shadow runs: was training on the cache training on the world?

compared    what the cache and the world said to one call, and which of five things came of it
tools       `ShadowTools`: serves one side and asks the other the same, step by step
divergence  one policy with the same seed on both: where observations differ, where behaviour does
straying    a policy that leaves the path of another, for caches without a trained policy yet
rows        the folder of a shadow run: its plan, a line an episode
stage       the run
summary     what the lines say together

Two instruments. Step by step, every answer of one side is held against what the other says after the very
same calls: that measures the cache. In pairs, whole episodes on the cache are held against whole episodes on
the world: that measures what the cache's mistakes cost.
"""

from cacherl.shadow.compared import Compared, Fate, Said, Serve
from cacherl.shadow.divergence import Divergence, divergence
from cacherl.shadow.stage import shadow
from cacherl.shadow.summary import ShadowSummary, summarise
from cacherl.shadow.tools import ShadowTools

__all__ = [
    "Compared",
    "Divergence",
    "Fate",
    "Said",
    "Serve",
    "ShadowSummary",
    "ShadowTools",
    "divergence",
    "shadow",
    "summarise",
]
