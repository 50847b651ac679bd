"""Sources and targets in S3 and behind HTTP, and folders of Parquet files."""

from __future__ import annotations

import functools
import http.server
import json
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from eventml.deploy.batch import parse_location
from eventml.errors import ConfigError, JobError, SourceError, TargetError
from tests.batch.conftest import ScoreNow, read, rides, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.batch.conftest import Row

pytestmark = [
    pytest.mark.slow,
    # The clients leave their connections to the end of the process.
    pytest.mark.filterwarnings(
        "ignore:.*:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]

ROWS = [
    *({**row, "zone": 20 + row["zone"] % 5} for row in rides(500)),
    {**rides(1)[0], "ride_id": "r-9999999", "zone": 13},
]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EVENTML_CACHE", str(path))
    return path


@pytest.fixture
def expected(scored_now: ScoreNow) -> list[Row]:
    scored_now("minutes", write("rides.parquet", ROWS), "expected.parquet")
    return read("expected.parquet").rows


def in_order(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: str(row["id"]))


class TestS3:
    @pytest.fixture(autouse=True)
    def bucket(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        """A bucket on a server of S3 on this machine."""
        boto3 = pytest.importorskip("boto3")
        server = pytest.importorskip("moto.server").ThreadedMotoServer(
            ip_address="127.0.0.1", port=0, verbose=False
        )
        server.start()
        host, port = server.get_host_and_port()
        settings = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}
        for name, value in {**settings, "DEFAULT_REGION": "us-east-1", "ALLOW_HTTP": "true"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset, timeout=10).close()  # noqa: S310 - what earlier tests have written
        client = boto3.client("s3")
        client.create_bucket(Bucket="lake")
        self.client = client
        pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()  # which has an earlier test's server
        yield client
        client.close()
        server.stop()

    def body(self, key: str) -> bytes:
        found: bytes = self.client.get_object(Bucket="lake", Key=key)["Body"].read()
        return found

    def keys(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket="lake").get("Contents", ())
        return sorted(one["Key"] for one in found)

    @pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
    def test_a_file_is_read_and_written(
        self, form: str, expected: list[Row], scored_now: ScoreNow, cache: Path
    ) -> None:
        local = write(f"in.{form}", ROWS)
        self.client.upload_file(local, "lake", f"in/rides.{form}")
        for _ in range(2):  # the second run replaces what the first has written
            summary = scored_now("minutes", f"s3://lake/in/rides.{form}", f"s3://lake/out/minutes.{form}")
            assert summary.written == 500
            assert summary.rejects == f"s3://lake/out/minutes.{form}.rejects.jsonl"
        Path(f"got.{form}").write_bytes(self.body(f"out/minutes.{form}"))
        assert in_order(read(f"got.{form}").rows) == expected
        [reject] = self.body(f"out/minutes.{form}.rejects.jsonl").splitlines()
        assert json.loads(reject)["id"] == "r-9999999"
        assert self.keys() == [f"in/rides.{form}", f"out/minutes.{form}", f"out/minutes.{form}.rejects.jsonl"]
        assert not list(cache.rglob("part-*"))

    def test_rejects_of_an_earlier_run_are_deleted(self, scored_now: ScoreNow) -> None:
        for rows, keys in ((ROWS, 3), (rides(3), 2)):
            self.client.upload_file(write("in.csv", rows), "lake", "rides.csv")
            scored_now("minutes", "s3://lake/rides.csv", "s3://lake/out.csv")
            assert len(self.keys()) == keys

    def test_a_run_that_failed_is_resumed_and_the_object_appears_at_the_end(
        self, expected: list[Row], scored_now: ScoreNow
    ) -> None:
        self.client.upload_file("rides.parquet", "lake", "rides.parquet")
        places = ("s3://lake/rides.parquet", "s3://lake/out.parquet")
        with pytest.raises(JobError, match="--max-rejects"):
            scored_now("minutes", *places, max_rejects=0, chunk=50, checkpoint=0.0)
        assert self.keys() == ["rides.parquet"]
        summary = scored_now("minutes", *places, chunk=50, checkpoint=0.0)
        assert (summary.resumed, summary.written) == (501, 500)
        Path("got.parquet").write_bytes(self.body("out.parquet"))
        assert read("got.parquet").rows == expected

    def test_a_partitioned_folder_is_read_and_written(
        self, expected: list[Row], scored_now: ScoreNow
    ) -> None:
        table = pa.Table.from_pylist(ROWS)
        pads.write_dataset(
            table, "trips", format="parquet", partitioning=["zone"], partitioning_flavor="hive"
        )
        for path in Path("trips").rglob("*.parquet"):
            self.client.upload_file(str(path), "lake", str(path))
        for _ in range(2):
            scored_now("minutes", "s3://lake/trips/", "s3://lake/minutes/", partition_by=("zone",))
        assert sum(key.startswith("minutes/zone=") for key in self.keys()) == 5
        for key in self.keys():
            Path("got", key).parent.mkdir(parents=True, exist_ok=True)
            Path("got", key).write_bytes(self.body(key))
        found = pads.dataset("got/minutes", partitioning="hive").to_table().to_pylist()
        assert in_order(found) == expected

    def test_a_delta_table_is_read_and_written(self, expected: list[Row], scored_now: ScoreNow) -> None:
        delta = pytest.importorskip("deltalake")
        delta.write_deltalake("s3://lake/trips", pa.Table.from_pylist(rides(900)))
        delta.write_deltalake("s3://lake/trips", pa.Table.from_pylist(ROWS), mode="overwrite")
        for version, partition_by in enumerate([("zone",), ("zone",), ()]):
            summary = scored_now(
                "minutes", "s3://lake/trips/", "s3://lake/out.delta/", partition_by=partition_by
            )
            assert (summary.read, summary.rejected) == (501, 1)
            assert summary.rejects == "s3://lake/out.delta.rejects.jsonl"
            table = delta.DeltaTable("s3://lake/out.delta")
            assert table.version() == version
            rows = delta.QueryBuilder().register("rows", table).execute("SELECT * FROM rows")
            assert in_order(pa.table(rows).to_pylist()) == expected

    def test_something_else_is_not_replaced(self, expected: list[Row], scored_now: ScoreNow) -> None:
        self.client.put_object(Bucket="lake", Key="out.jsonl", Body=b'{"mine": 1}\n')
        self.client.upload_file("rides.parquet", "lake", "data/rides.parquet")
        for target in ("s3://lake/out.jsonl", "s3://lake/data/", "s3://lake/data/rides.parquet"):
            with pytest.raises(TargetError, match=r"exists and holds no predictions: .* has the columns"):
                scored_now("minutes", "rides.parquet", target)

    def test_what_is_missing_is_named(
        self, scored_now: ScoreNow, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(SourceError, match=r"s3://lake/no\.parquet: No such file"):
            scored_now("minutes", "s3://lake/no.parquet", "out.parquet")
        write("rides.parquet", rides(2))
        monkeypatch.setenv("SLOW", "0")  # the app touches the file `loaded` then
        for target in ("out.parquet", "out/", "out.delta"):
            with pytest.raises(TargetError, match=rf"s3://nolake/{target}: there is no bucket 'nolake'"):
                scored_now("minutes", "rides.parquet", f"s3://nolake/{target}")
        assert not (folder / "loaded").exists()
        assert [one["Name"] for one in self.client.list_buckets()["Buckets"]] == ["lake"]

    @pytest.mark.parametrize("target", ["out.parquet", "out.csv", "out/", "out.delta"])
    def test_without_credentials_their_settings_are_named(
        self, target: str, scored_now: ScoreNow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write("rides.parquet", rides(2))
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            monkeypatch.delenv(f"AWS_{name}")
        for name in ("SHARED_CREDENTIALS_FILE", "CONFIG_FILE"):
            monkeypatch.setenv(f"AWS_{name}", "none")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for places in (("rides.parquet", f"s3://lake/{target}"), (f"s3://lake/{target}", "out.parquet")):
            with pytest.raises(JobError, match="Unable to locate credentials") as refused:
                scored_now("minutes", *places)
            assert "exists" not in str(refused.value)
            assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" in str(refused.value)

    def test_a_delta_table_at_a_server_without_tls_needs_a_setting(
        self, scored_now: ScoreNow, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        delta = pytest.importorskip("deltalake")
        table = pa.Table.from_pylist(rides(2))
        for name in ("trips", "trips.delta"):
            delta.write_deltalake(f"s3://lake/{name}", table)
        write("rides.parquet", rides(2))
        monkeypatch.setenv("SLOW", "0")  # as above
        monkeypatch.delenv("AWS_ALLOW_HTTP")
        for places in (
            ("rides.parquet", "s3://lake/out.delta"),
            ("s3://lake/trips/", "out.parquet"),
            ("s3://lake/trips.delta", "out.parquet"),
        ):
            with pytest.raises(ConfigError, match="only if AWS_ALLOW_HTTP=true is set in the environment"):
                scored_now("minutes", *places)
        assert not (folder / "loaded").exists()
        assert scored_now("minutes", "rides.parquet", "s3://lake/out/").written == 2

    def test_marks_of_empty_folders_are_no_files(self, scored_now: ScoreNow) -> None:
        write("rides.parquet", rides(3))
        self.client.upload_file("rides.parquet", "lake", "trips/day=1/a.parquet")
        for key in ("trips/", "trips/day=1/", "trips/day=1_$folder$", "out/", "out/sub/"):
            self.client.put_object(Bucket="lake", Key=key, Body=b"")
        for _ in range(2):
            assert scored_now("minutes", "s3://lake/trips/", "s3://lake/out/").read == 3
        assert "out/part-0.parquet" in self.keys()


def test_a_file_is_read_over_http_and_its_url_stays_secret(
    expected: list[Row], scored_now: ScoreNow, folder: Path
) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    write("rides.jsonl", ROWS)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        summary = scored_now("minutes", f"{url}/rides.jsonl?sig=swordfish", "out.parquet")
        with pytest.raises(SourceError) as missing:
            scored_now("minutes", f"{url}/none.jsonl?sig=swordfish", "out.parquet")
        server.shutdown()
    with pytest.raises(SourceError, match="cannot be read: Connect call failed") as away:
        scored_now("minutes", f"{url}/rides.parquet?sig=swordfish", "out.parquet")
    assert in_order(read("out.parquet").rows) == expected
    assert "swordfish" not in summary.source + str(missing.value) + str(away.value)


@pytest.mark.parametrize(
    ("text", "form", "name"),
    [
        ("s3://b/k/rides.parquet", "parquet", "rides.parquet"),
        ("https://h/rides.csv?sig=1", "csv", "rides.csv"),
        ("gs://b/trips/", "dataset", "trips"),
        ("s3://b/trips/month=2024-01/", "dataset", "month=2024-01"),
        ("s3://b/month=2024-01/a.csv?sig=1", "csv", "a.csv"),
        ("trips/", "dataset", "trips"),
    ],
)
def test_locations(text: str, form: str, name: str) -> None:
    location: Any = parse_location(text, option="--from")
    assert (location.format, location.path.name) == (form, name)
    assert str(location).replace("?***", "?sig=1").rstrip("/") == text.rstrip("/")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://h/out.csv?sig=secret", r"https://h/out.csv\?\*\*\*: a web server is read only"),
        ("s3://b/out.xlsx", "expected a SQLAlchemy URL"),
        ("s3://${NO_SUCH}/out.csv", "NO_SUCH"),
    ],
)
def test_an_invalid_location_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_location(text, option="--to")


def test_the_scheme_of_a_store_may_be_in_capitals() -> None:
    assert parse_location("S3://b/a.csv", option="--to") == parse_location("s3://b/a.csv", option="--to")
