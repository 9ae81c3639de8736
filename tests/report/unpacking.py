from __future__ import annotations

import base64
import json
import re
import zlib
from typing import Any


def unpacked(text: str) -> dict[str, Any]:
    """What the script of a page makes of a packed text."""
    content: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text)))
    return content


def packed_in(page: str, name: str) -> dict[str, Any]:
    """A packed text of a page."""
    found = re.search(rf'<script type="[^"]*" id="packed-{name}">([^<]*)</script>', page)
    assert found is not None
    return unpacked(found.group(1))
