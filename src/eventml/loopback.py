"""Whether a host is this machine.

What listens on a loopback address only may do without a token, and what connects to one without encryption.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final

_AUTHORITY: Final = re.compile(r"\[([^\]]*)\](?::\d*)?|([^:]*)(?::\d*)?")
"""The value of a header `host`: a name or an address, an IPv6 one in brackets, and perhaps a port."""


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether a host name or an address is this machine.

    Of all names only `localhost` is: no name is looked up, as another resolver may answer otherwise.

    Args:
        host: A name or an address, an IPv6 one without brackets, and without a port.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_loopback_name(header: str) -> bool:
    """Whether a header `host` names a loopback address.

    A page of another site can have its own name resolved to a loopback address (DNS rebinding), but its
    visitor's browser then sends that name in this header.

    Args:
        header: The value of the header.
    """
    found = _AUTHORITY.fullmatch(header)
    return found is not None and is_loopback((found[1] or found[2] or "").lower())
