"""What the parts of one backend share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from eventml.backends.redis.connecting import Connector
    from eventml.backends.redis.losses import Losses
    from eventml.backends.redis.retention import Retention
    from eventml.backends.redis.settings import Settings
    from eventml.backends.redis.wire import EntryDecoder, HeaderEncoder


class Equipment(msgspec.Struct, frozen=True):
    """Attributes are what their types say."""

    settings: Settings
    connector: Connector
    decoder: EntryDecoder
    headers: HeaderEncoder
    retention: Retention
    losses: Losses
