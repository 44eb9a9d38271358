"""Before torch is loaded: threads that wait sleep, so that tests beside other work are not many times as long."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
