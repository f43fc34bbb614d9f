"""What a person looks at after a run, or after several: figures and one self-contained page."""

from spaars.report.comparison import DEFAULT_THRESHOLDS, write_comparison
from spaars.report.page import write_report
from spaars.report.records import Run, load_run

__all__ = ["DEFAULT_THRESHOLDS", "Run", "load_run", "write_comparison", "write_report"]
