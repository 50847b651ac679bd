"""What can be set of a `kafka://` backend, and its limits. Seconds are floats."""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Text = Annotated[str, Meta(min_length=1)]
Seconds = Annotated[float, Meta(gt=0)]
Bytes = Annotated[int, Meta(ge=1024)]

Security = Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]

_SECRETS = {"password", "key_password", "token"}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `kafka://`, in the URL's query or in `[backend]`.

    Attributes:
        security: How to talk to the brokers. By default `sasl_ssl` where there is a user or a token,
            `ssl` where there is a certificate, else `plaintext`.
        sasl_mechanism: How to log in. By default OAUTHBEARER with a token, else SCRAM-SHA-512.
        username: Who logs in; better in the URL.
        password: The password; better `${NAME}` of the environment, or `password_file`.
        password_file: A file that holds the password. Read once, when connecting.
        token: An OAuth bearer token.
        token_file: A file that holds the token. Read at every connection, so that it may be renewed.
        ca: A file of the authorities to trust, PEM; by default the system's.
        cert: The client's certificate, PEM, where the brokers ask for one.
        key: Its private key, PEM, unless the certificate's file holds it.
        key_password: The private key's password.
        key_password_file: A file that holds it.
        delivery: `at_least_once`, or `exactly_once`: transactions, one producer per input partition.
        client_id: How this client is called in the brokers' logs and quotas.
        group_instance_id: Makes a process a static member of its groups: a restart within
            `session_timeout` moves no partition. Has to differ between the processes of a group.
        publish_timeout: How long a publish may take before `UnavailableError`, retries included.
        request_timeout: How long a broker may take for one answer.
        max_request_size: The most bytes in one batch, and so in one record; not above the topic's own
            `max.message.bytes`.
        compression: How batches are compressed. All but gzip need aiokafka's extra of that name.
        session_timeout: How long a member may be silent before the others get its partitions.
        heartbeat_interval: How often a member says that it lives, and learns of a rebalance.
        rebalance_timeout: How long the group waits for a member to let go of its partitions.
        drain: How much of that may be spent on finishing what is in hand.
        max_poll_interval: After so long without a look at the event loop a member leaves its group. A
            slow handler does not count: polling goes on in the background.
        commit_interval: The least time between two commits: what a crash may repeat, at most.
        fetch_bytes: How much is fetched ahead of each partition.
        fetch_wait: How long a broker may hold a fetch back that has nothing to return.
        metadata_max_age: After so long new partitions are noticed.
        stall_timeout: No progress for so long, though records wait, and the client is replaced.
        transaction_timeout: After so long the brokers give up a transaction whose producer died.
    """

    security: Security | None = None
    sasl_mechanism: Mechanism | None = None
    username: Text | None = None
    password: Text | None = None
    password_file: Text | None = None
    token: Text | None = None
    token_file: Text | None = None
    ca: Text | None = None
    cert: Text | None = None
    key: Text | None = None
    key_password: Text | None = None
    key_password_file: Text | None = None
    delivery: Literal["at_least_once", "exactly_once"] = "at_least_once"
    client_id: Text = "eventml"
    group_instance_id: Text | None = None
    publish_timeout: Seconds = 30.0
    request_timeout: Seconds = 10.0
    max_request_size: Bytes = 1_048_576
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    session_timeout: Seconds = 15.0
    heartbeat_interval: Seconds = 3.0
    rebalance_timeout: Seconds = 30.0
    drain: Annotated[float, Meta(ge=0)] = 10.0
    max_poll_interval: Seconds = 300.0
    commit_interval: Annotated[float, Meta(ge=0)] = 0.1
    fetch_bytes: Bytes = 1_048_576
    fetch_wait: Seconds = 0.5
    metadata_max_age: Seconds = 60.0
    stall_timeout: Seconds = 60.0
    transaction_timeout: Seconds = 60.0

    def __post_init__(self) -> None:
        if self.heartbeat_interval * 2 > self.session_timeout:
            raise ValueError("heartbeat_interval: at most half of session_timeout, or one lost beat is death")
        if self.drain + self.heartbeat_interval >= self.rebalance_timeout:
            raise ValueError(
                "drain: with heartbeat_interval less than rebalance_timeout, or the group goes on without us"
            )
        for one, other in [
            ("password", "password_file"),
            ("token", "token_file"),
            ("key_password", "key_password_file"),
        ]:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"{one}: either this or {other}")

    def __repr__(self) -> str:
        shown = (
            f"{name}={'***' if name in _SECRETS and value is not None else repr(value)}"
            for name in self.__struct_fields__
            if (value := getattr(self, name)) != _DEFAULTS.get(name)
        )
        return f"Settings({', '.join(shown)})"


_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Settings)}
