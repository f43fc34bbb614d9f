"""What a person looks at after a run: figures and one self-contained page."""

from spaars.report.page import write_report
from spaars.report.records import Run, load_run

__all__ = ["Run", "load_run", "write_report"]
