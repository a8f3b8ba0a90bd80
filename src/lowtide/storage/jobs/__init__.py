"""Jobs: work that is kept with the data it belongs to and done later, at least once."""

from __future__ import annotations

from lowtide.storage.db.migrate import Component
from lowtide.storage.jobs.model import Count, Hopeless, Job, Status
from lowtide.storage.jobs.service import Jobs
from lowtide.storage.jobs.worker import Worker

COMPONENT = Component("jobs", "lowtide.storage.jobs")

__all__ = ["COMPONENT", "Count", "Hopeless", "Job", "Jobs", "Status", "Worker"]
