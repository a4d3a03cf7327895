"""The web page: one file of the package, which runs its own script and style alone and talks to this server alone."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

from starlette.responses import Response

from llmctl.workflows.serve.guard import HEADERS


def read() -> Response:
    """The page with its headers."""
    page = (resources.files("llmctl.workflows.serve") / "page.html").read_bytes()

    def hashed(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), page, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each).digest()).decode()}'" for each in found)

    policy = (
        "default-src 'none'",
        f"script-src {hashed('script')}",
        f"style-src {hashed('style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    own = {"content-security-policy": "; ".join(policy), "referrer-policy": "no-referrer"}
    return Response(page, media_type="text/html", headers=HEADERS | own)
