"""Where weights come from, one file per kind of source."""

from outpace.catalogue.sources.fetch import can_resume, describe, fetch
from outpace.catalogue.sources.order import Fetched, FetchOrder, Report, report_nothing

__all__ = ["FetchOrder", "Fetched", "Report", "can_resume", "describe", "fetch", "report_nothing"]
