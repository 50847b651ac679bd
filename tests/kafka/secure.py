"""A broker that requires a login and checks permissions, and certificates for it, created for each run."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from confluent_kafka import admin

from backends.kafka.cluster import KafkaCluster
from backends.process import LOOPBACK, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USER: Final = "alice"
PASSWORD: Final = "p@ss/wörd"  # noqa: S105 - of a broker that lives for seconds, on loopback
_KAFKA: Final = "org.apache.kafka.common.security"


class Secure(NamedTuple):
    """Where the broker listens, and the files to go there with.

    Attributes:
        plain: Without encryption, with a login.
        tls: With a certificate of the client's, and no login.
        sasl_tls: Encrypted, with a login.
        files: ca.pem, client.pem with its key, and locked.key under a password.
        admin: Without encryption and login, as a user who may do everything.
    """

    plain: str
    tls: str
    sasl_tls: str
    files: Path
    admin: str


@contextmanager
def secure_broker(files: Path) -> Iterator[Secure]:
    """A broker with all kinds of login. Users may use a topic that has no ACL, and those that allow it."""
    make_certificates(files)
    cluster = KafkaCluster(quick=True)
    [node] = cluster.nodes
    ports = dict(zip(("SASLPLAIN", "TLS", "SASLTLS"), islice(free_ports(), 3), strict=True))
    open_port, controller = node.address.port, node.address.controller_port
    advertised = [f"PLAINTEXT://{LOOPBACK}:{open_port}"]
    advertised += [f"{name}://{LOOPBACK}:{port}" for name, port in ports.items()]
    cluster.settings |= {
        "listeners": ",".join([*advertised, f"CONTROLLER://{LOOPBACK}:{controller}"]),
        "advertised.listeners": ",".join(advertised),
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
        "SASLPLAIN:SASL_PLAINTEXT,TLS:SSL,SASLTLS:SASL_SSL",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(files / "server.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(files / "ca.pem"),
        "listener.name.tls.ssl.client.auth": "required",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "true",
    }
    modules = {
        "plain": f'{_KAFKA}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
        "scram-sha-256": f"{_KAFKA}.scram.ScramLoginModule required;",
        "scram-sha-512": f"{_KAFKA}.scram.ScramLoginModule required;",
        "oauthbearer": f"{_KAFKA}.oauthbearer.OAuthBearerLoginModule required "
        'unsecuredLoginStringClaim_sub="broker";',
    }
    for listener in ("saslplain", "sasltls"):
        for mechanism, module in modules.items():
            cluster.settings[f"listener.name.{listener}.{mechanism}.sasl.jaas.config"] = module
    with cluster:
        open_listener = f"{LOOPBACK}:{open_port}"
        add_scram_user(open_listener)
        plain, tls, sasl_tls = (f"{LOOPBACK}:{port}" for port in ports.values())
        yield Secure(plain, tls, sasl_tls, files, open_listener)


def add_scram_user(brokers: str, password: str = PASSWORD) -> None:
    """Add the user, or change the password."""
    client = admin.AdminClient({"bootstrap.servers": brokers})
    for mechanism in (admin.ScramMechanism.SCRAM_SHA_256, admin.ScramMechanism.SCRAM_SHA_512):
        info = admin.ScramCredentialInfo(mechanism, 4096)
        user = admin.UserScramCredentialUpsertion(USER, info, password.encode())
        for done in client.alter_user_scram_credentials([user]).values():
            done.result(30)


def permit(brokers: str, topic: str, *, allowed: bool) -> None:
    """Allow or deny the user everything with a topic."""
    client = admin.AdminClient({"bootstrap.servers": brokers})
    acls = [
        admin.AclBinding(
            admin.ResourceType.TOPIC,
            topic,
            admin.ResourcePatternType.LITERAL,
            f"User:{USER}",
            "*",
            admin.AclOperation.ALL,
            permission,
        )
        for permission in (admin.AclPermissionType.ALLOW, admin.AclPermissionType.DENY)
    ]
    filters = [admin.AclBindingFilter(*(getattr(acl, name) for name in _ACL)) for acl in acls]
    for done in client.delete_acls(filters).values():
        done.result(30)
    for done in client.create_acls(acls[:1] if allowed else acls[1:]).values():
        done.result(30)


def grant(brokers: str, prefix: str, *rights: tuple[str, str, str]) -> None:
    """Let the user do nothing with names of a prefix but this: a kind of resource, a prefix, an operation."""
    client = admin.AdminClient({"bootstrap.servers": brokers})
    earlier = admin.AclBindingFilter(
        admin.ResourceType.ANY,
        None,
        admin.ResourcePatternType.ANY,
        f"User:{USER}",
        None,
        admin.AclOperation.ANY,
        admin.AclPermissionType.ANY,
    )
    for done in client.delete_acls([earlier]).values():
        done.result(30)
    closed = [(kind, prefix, "ALL", "nobody") for kind in ("TOPIC", "GROUP", "TRANSACTIONAL_ID")]
    acls = [
        admin.AclBinding(
            getattr(admin.ResourceType, kind),
            name,
            admin.ResourcePatternType.PREFIXED,
            f"User:{user}",
            "*",
            getattr(admin.AclOperation, operation),
            admin.AclPermissionType.ALLOW,
        )
        for kind, name, operation, user in [*closed, *((*right, USER) for right in rights)]
    ]
    for done in client.create_acls(acls).values():
        done.result(30)


_ACL: Final = (
    "restype",
    "name",
    "resource_pattern_type",
    "principal",
    "host",
    "operation",
    "permission_type",
)


def token() -> str:
    """An unsigned token, which a broker without another validator takes."""
    now = int(time.time())
    claims = {"sub": USER, "iat": now, "exp": now + 3600}
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."


def make_certificates(files: Path) -> None:
    """An authority, and certificates by it for the broker and for a client."""
    openssl(files, "req", "-x509", *_key("ca.key"), "-out", "ca.pem", "-subj", "/CN=test", "-days", "2")
    extensions = {"server": f"subjectAltName=IP:{LOOPBACK}", "client": "keyUsage=digitalSignature"}
    for name, extension in extensions.items():
        openssl(files, "req", *_key(f"{name}.key"), "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (files / "extension").write_text(extension)
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extension"]
        openssl(files, "x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.crt", "-days", "2")
        pem = (files / f"{name}.key").read_text() + (files / f"{name}.crt").read_text()
        (files / f"{name}.pem").write_text(pem)
    openssl(files, "pkey", "-in", "client.key", "-aes256", "-passout", "pass:sesame", "-out", "locked.key")


def _key(name: str) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", name]


def openssl(files: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=files, check=True, capture_output=True, timeout=30)  # noqa: S603, S607 - on PATH, or there is no test
