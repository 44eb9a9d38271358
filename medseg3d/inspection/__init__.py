"""Looking at data before they are used: every file read, every case and the data set as a whole checked."""

from __future__ import annotations

from medseg3d.inspection.inspect import inspect, require_good
from medseg3d.inspection.result import Inspection

__all__ = ["Inspection", "inspect", "require_good"]
