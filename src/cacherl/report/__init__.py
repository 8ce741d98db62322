"""The HTML page: one file that shows what a run did, for a person."""

from cacherl.report.data import (
    Curve,
    Gain,
    ModelReport,
    NextCommand,
    ReportData,
    TeacherCost,
    Transcript,
)
from cacherl.report.page import render_report, write_report

__all__ = [
    "Curve",
    "Gain",
    "ModelReport",
    "NextCommand",
    "ReportData",
    "TeacherCost",
    "Transcript",
    "render_report",
    "write_report",
]
