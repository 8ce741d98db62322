"""ACEBench, from a user's checkout."""

from cacherl.suites.acebench.flaws import Flaw, report_flaws
from cacherl.suites.acebench.suite import AceBench
from cacherl.suites.acebench.users import UserModel

__all__ = ["AceBench", "Flaw", "UserModel", "report_flaws"]
