"""BFCL v4 multi-turn: 800 tasks on eight real, stateful backends, with scripted user turns.

wheel      BFCL's own wheel: fetched, checked, imported as it lies
effects    what each tool reads and writes
cases      its tasks and gold, parsed
backends   the tools of one episode
verdict    its state and response checks
suite      `BfclSuite` and `BfclWorld`, the seams to the rest of the package
"""

from cacherl.suites.bfcl.suite import BfclSuite, BfclWorld

__all__ = ["BfclSuite", "BfclWorld"]
