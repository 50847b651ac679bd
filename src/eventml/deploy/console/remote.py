"""The status of a service that runs elsewhere, read from the `/status` of its operations ports."""

from __future__ import annotations

import http.client
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from eventml.deploy.console.numbers import merged
from eventml.deploy.workers import HostPort, ServiceStatus
from eventml.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TIMEOUT: Final = 5.0  # seconds for an operations port to answer


def fetch_status(bus: str, address: HostPort) -> ServiceStatus:
    """Fetch the status of the service of a bus from its operations port.

    Raises:
        UnavailableError: nobody answers at the address.
        ConfigError: what answers is no operations port of eventml, or that of another bus.
    """
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as exc:
        raise UnavailableError(
            f"no service answers at {address} ({exc}); the log of `eventml run ... --workers N` names its "
            "operations port: pass that as --at"
        ) from exc
    finally:
        connection.close()
    try:
        status = msgspec.json.decode(body, type=ServiceStatus) if answer.status == HTTPStatus.OK else None
    except msgspec.MsgspecError:
        status = None
    if status is None:
        found = body.decode(errors="replace").splitlines()[:1]
        raise ConfigError(f"{address} is not an operations port of eventml: it answers {found}")
    if status.bus != bus:
        raise ConfigError(
            f"{address} belongs to the bus {status.bus!r}, not {bus!r}; name another port with --at"
        )
    return status


def remote_status(bus: str, addresses: Sequence[HostPort]) -> Callable[[], ServiceStatus]:
    """Return a function that fetches the status of a bus from several ports, as one.

    A port that does not answer is named among the reasons why the service is not ready.
    """

    def status() -> ServiceStatus:
        found, failed = {}, []
        for address in addresses:
            try:
                found[str(address)] = fetch_status(bus, address)
            except (UnavailableError, ConfigError) as exc:
                failed.append(str(exc))
        whole = merged(found)
        return msgspec.structs.replace(whole, bus=bus, unready=[*whole.unready, *failed])

    return status
