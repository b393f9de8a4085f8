"""Show references of docstrings (``:class:`Round```) as plain code, shortened where they begin with ``~``."""

import re
from typing import Any

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):\s*<code>(~?)([\w.]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Take the role's name away."""
    return _ROLE.sub(lambda role: f"<code>{role[2].rsplit('.', 1)[-1] if role[1] else role[2]}</code>", html)
