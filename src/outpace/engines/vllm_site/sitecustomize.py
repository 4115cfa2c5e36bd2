"""In every Python process that vLLM starts: packages that cannot be imported here count as not installed."""

import os
import sys

for name in filter(None, os.environ.get("OUTPACE_BLOCKED", "").split(",")):
    sys.modules[name] = None  # type: ignore[assignment]
