"""What can be set for `redis://`."""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
from typing import Annotated

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `redis://`, `rediss://` and `unix://`. Durations are in seconds.

    Attributes:
        lease: How long a member that has fallen silent keeps what it holds before another may claim
            it. A member that lives renews its leases, however long a handler takes.
        block: How long the server holds a read open that finds nothing.
        timeout: How long an answer may take before the connection is given up.
        connect_timeout: How long connecting may take.
        publish_timeout: How long `publish` tries again where a repeat cannot duplicate: the server is
            out of reach, is loading, or has no memory left.
        retention: None keeps every entry. Otherwise entries are removed once all groups have
            acknowledged them and they are so many seconds old; 0 removes them at once. What a group
            has not finished is never removed.
        max_length: A cap on the entries of each topic that is written to. Beyond it the oldest are
            removed, read or not: a group that falls so far behind loses them. What was lost
            unread is counted and logged. None is no cap.
        db: The number of the database; the URL's path says the same.
        cluster: The URL names nodes of a Redis Cluster.
        atomic: On a cluster, refuse a handler whose output lives in another slot than its input.
            False completes such ones at least once: outputs first, then the ack.
        sentinel: The URL names Sentinels, and this is the master they watch.
        sentinel_username: The user at the Sentinels, where they ask for one.
        sentinel_password: The password at the Sentinels.
        ca_file: For `rediss://`, the certificates to trust in place of the system's.
        cert_file: For `rediss://`, the client's own certificate.
        key_file: The key of the client's certificate.
        verify: For `rediss://`, whether the server's certificate and name are checked.
    """

    lease: Seconds = 30.0
    block: Seconds = 1.0
    timeout: Seconds = 5.0
    connect_timeout: Seconds = 5.0
    publish_timeout: Annotated[float, Meta(ge=0)] = 30.0
    retention: Annotated[float, Meta(ge=0)] | None = None
    max_length: Annotated[int, Meta(ge=1)] | None = None
    db: Annotated[int, Meta(ge=0)] | None = None
    cluster: bool = False
    atomic: bool = True
    sentinel: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True
