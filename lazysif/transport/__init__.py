"""Moves bytes: httpx and libcurl, credentials, proxies, redirects. The only home of httpx."""

import sys

# httpx loads its own command line where rich and click are installed, as for our progress bars: 45 of the 320 ms
# that a daemon takes to import, and 4 MB. It takes an ImportError for "not installed".
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
