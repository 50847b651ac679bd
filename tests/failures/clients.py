"""Calls of real client libraries at a service that is down, silent, or answers with an HTTP status.

Each function makes one call and raises what the library raises. They are named `<library>_<what happens>`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import urlopen

import aiohttp
import asyncpg
import botocore.session
import grpc
import httpx
import openai
import psycopg
import pymongo
import pymysql
import redis
import requests
import urllib3
from botocore.config import Config
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import create_engine, text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Service:
    """Addresses of a service on the loopback interface.

    Attributes:
        closed: A port on which nobody listens.
        silent: A port that accepts connections and never answers.
        url: Of an HTTP server that answers the path `/<status>` with the status.
        folder: An empty folder.
    """

    def __init__(self, closed: int, silent: int, url: str, folder: Path) -> None:
        self.closed = closed
        self.silent = silent
        self.url = url
        self.folder = folder

    def locked_database(self) -> tuple[str, sqlite3.Connection]:
        """The path of an SQLite database that a connection has locked."""
        path = str(self.folder / "locked.db")
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("create table if not exists t (id integer)")
        holder.execute("begin exclusive")
        return path, holder


def _aiohttp(url: str, **options: Any) -> None:
    async def get() -> None:
        async with aiohttp.ClientSession(**options) as session, session.get(url) as response:
            response.raise_for_status()

    asyncio.run(get())


def aiohttp_down(service: Service) -> None:
    _aiohttp(f"http://127.0.0.1:{service.closed}/")


def aiohttp_silent(service: Service) -> None:
    _aiohttp(f"http://127.0.0.1:{service.silent}/", timeout=aiohttp.ClientTimeout(total=0.05))


def aiohttp_status(service: Service, status: int | str = 503) -> None:
    _aiohttp(f"{service.url}/{status}")


def asyncpg_down(service: Service) -> None:
    asyncio.run(asyncpg.connect(host="127.0.0.1", port=service.closed, user="u", database="d"))


@cache  # a client takes 0.2 s to make
def _botocore(endpoint: str) -> Any:
    config = Config(connect_timeout=0.2, read_timeout=0.05, retries={"max_attempts": 0})
    return botocore.session.Session().create_client(
        "s3",
        "eu-west-1",
        endpoint_url=endpoint,
        aws_access_key_id="k",
        aws_secret_access_key="s",  # noqa: S106 - of nobody
        config=config,
    )


def botocore_down(service: Service) -> None:
    _botocore(f"http://127.0.0.1:{service.closed}").list_buckets()


def botocore_silent(service: Service) -> None:
    _botocore(f"http://127.0.0.1:{service.silent}").list_buckets()


def botocore_status(service: Service, status: int | str = 503) -> None:
    _botocore(f"{service.url}/{status}").list_buckets()


def _grpc(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        channel.unary_unary("/predictor/predict")(b"", timeout=0.1)


def grpc_down(service: Service) -> None:
    _grpc(service.closed)


def grpc_silent(service: Service) -> None:
    _grpc(service.silent)


def httpx_down(service: Service) -> None:
    httpx.get(f"http://127.0.0.1:{service.closed}/", trust_env=False)


def httpx_silent(service: Service) -> None:
    httpx.get(f"http://127.0.0.1:{service.silent}/", timeout=0.05, trust_env=False)


def httpx_status(service: Service, status: int | str = 503) -> None:
    httpx.get(f"{service.url}/{status}", trust_env=False).raise_for_status()


def _openai(url: str) -> None:
    with openai.OpenAI(base_url=url, api_key="k", max_retries=0, timeout=0.2) as client:
        client.models.list()


def openai_down(service: Service) -> None:
    _openai(f"http://127.0.0.1:{service.closed}")


def openai_silent(service: Service) -> None:
    _openai(f"http://127.0.0.1:{service.silent}")


def openai_status(service: Service, status: int | str = 503) -> None:
    _openai(f"{service.url}/{status}")


def psycopg_down(service: Service) -> None:
    psycopg.connect(f"postgresql://u@127.0.0.1:{service.closed}/d")


@cache  # the first call of a client waits half a second
def _pymongo(port: int) -> Any:
    return pymongo.MongoClient[Any]("127.0.0.1", port, serverSelectionTimeoutMS=20)


def pymongo_down(service: Service) -> None:
    _pymongo(service.closed).d.c.find_one()


def pymysql_down(service: Service) -> None:
    pymysql.connect(host="127.0.0.1", port=service.closed, user="u")


def pymysql_silent(service: Service) -> None:
    pymysql.connect(host="127.0.0.1", port=service.silent, user="u", connect_timeout=1, read_timeout=1)


def _no_retries() -> Any:
    return Retry(NoBackoff(), 0)


def redis_down(service: Service) -> None:
    redis.Redis(port=service.closed, retry=_no_retries()).ping()


def redis_silent(service: Service) -> None:
    redis.Redis(port=service.silent, socket_timeout=0.05, retry=_no_retries()).ping()


def requests_down(service: Service) -> None:
    requests.get(f"http://127.0.0.1:{service.closed}/", timeout=1)


def requests_silent(service: Service) -> None:
    requests.get(f"http://127.0.0.1:{service.silent}/", timeout=0.05)


def requests_status(service: Service, status: int | str = 503) -> None:
    requests.get(f"{service.url}/{status}", timeout=5).raise_for_status()


def sqlalchemy_down(service: Service) -> None:
    create_engine(f"postgresql+psycopg://u@127.0.0.1:{service.closed}/d").connect()


def sqlalchemy_locked(service: Service) -> None:
    path, holder = service.locked_database()
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0.01})
    try:
        with engine.begin() as connection:
            connection.execute(text("insert into t values (1)"))
    finally:
        engine.dispose()
        holder.close()


def sqlite3_locked(service: Service) -> None:
    path, holder = service.locked_database()
    other = sqlite3.connect(path, timeout=0.01)
    try:
        other.execute("insert into t values (1)")
    finally:
        other.close()
        holder.close()


def urllib_down(service: Service) -> None:
    urlopen(f"http://127.0.0.1:{service.closed}/")


def urllib_status(service: Service, status: int | str = 503) -> None:
    try:
        urlopen(f"{service.url}/{status}").close()  # noqa: S310 - our own server
    except HTTPError as exc:
        exc.close()  # it is an open answer
        raise


def urllib3_down(service: Service) -> None:
    urllib3.PoolManager().request("GET", f"http://127.0.0.1:{service.closed}/", retries=1)


def urllib3_silent(service: Service) -> None:
    urllib3.PoolManager().request("GET", f"http://127.0.0.1:{service.silent}/", timeout=0.05, retries=False)


CALLS: dict[str, Callable[..., None]] = {
    name: function
    for name, function in list(globals().items())
    if name.endswith(("_down", "_silent", "_locked", "_status")) and not name.startswith("_")
}
"""All calls, by name."""
