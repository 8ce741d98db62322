"""tau-bench and tau2-bench, each in its own interpreter."""

from cacherl.suites.tau.suite import TauSuite, TauUser

__all__ = ["TauSuite", "TauUser"]
