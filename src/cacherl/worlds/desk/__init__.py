"""The support desk of a small web shop: the built-in world.

    universe    every customer, order, ticket, slot and article that exists, by split
    database    one scenario of it as an in-memory SQLite database, and the functions over it
    tools       the same functions as tools: schemas, effects, results
    hearing     what the customer's words name: ids, days, cities, topics
    plans       what a right agent does, family by family
    wordings    how customers put it, in English and French, by wording set
    tasks       tasks with gold, made from the above
    reasons     why a turn is the right one, in one short sentence
    crowd       a hundred tools that nobody needs, for crowded prompts
    expert      the scripted agent: a `ChatModel` that follows the plans, and sometimes strays
    world       `DeskWorld`, the seam to the rest of the package

`python -m cacherl.worlds.desk --scenario desk-1` serves one scenario as an MCP server over stdio.
"""

from cacherl.worlds.desk.expert import DeskExpert
from cacherl.worlds.desk.reasons import explain
from cacherl.worlds.desk.world import DeskWorld

__all__ = ["DeskExpert", "DeskWorld", "explain"]
