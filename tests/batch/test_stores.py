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
import pyarrow.parquet as pq
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
            assert summary.rejects == "s3://lake/out/minutes.rejects.jsonl"
        Path(f"got.{form}").write_bytes(self.body(f"out/minutes.{form}"))
        assert in_order(read(f"got.{form}").rows) == expected
        [reject] = self.body("out/minutes.rejects.jsonl").splitlines()
        assert json.loads(reject)["id"] == "r-9999999"
        assert self.keys() == [f"in/rides.{form}", f"out/minutes.{form}", "out/minutes.rejects.jsonl"]
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
            assert summary.rejects == "s3://lake/out.rejects.jsonl"
            table = delta.DeltaTable("s3://lake/out.delta")
            assert table.version() == version
            rows = delta.QueryBuilder().register("rows", table).execute("SELECT * FROM rows")
            assert in_order(pa.table(rows).to_pylist()) == expected

    def test_something_else_is_not_replaced(self, expected: list[Row], scored_now: ScoreNow) -> None:
        self.client.put_object(Bucket="lake", Key="out.jsonl", Body=b'{"mine": 1}\n')
        self.client.upload_file("rides.parquet", "lake", "data/rides.parquet")
        for target in ("s3://lake/out.jsonl", "s3://lake/data/", "s3://lake/data/rides.parquet"):
            with pytest.raises(TargetError, match="exists and holds no predictions: .* has the columns"):
                scored_now("minutes", "rides.parquet", target)

    def test_what_is_missing_is_named(self, scored_now: ScoreNow) -> None:
        with pytest.raises(SourceError, match=r"s3://lake/no\.parquet: No such file"):
            scored_now("minutes", "s3://lake/no.parquet", "out.parquet")
        write("rides.parquet", rides(2))
        with pytest.raises(TargetError, match=r"s3://nolake/out\.parquet: .*(No such|bucket|exist)"):
            scored_now("minutes", "rides.parquet", "s3://nolake/out.parquet")


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


class TestFolders:
    def test_folders_are_columns_and_a_run_replaces_its_partitions(self, scored_now: ScoreNow) -> None:
        for month, first in (("2024-01", 0), ("2024-02", 300)):
            path = Path(f"trips/zone={month[-2:]}")
            path.mkdir(parents=True)
            table = pa.Table.from_pylist(rides(300, first=first)).drop_columns(["zone"])
            pq.write_table(table, path / "a.parquet", row_group_size=100)
        summary = scored_now("minutes", "trips/", "out/", partition_by=("zone",), chunk=70)
        assert summary.read == summary.written == 600
        found = pads.dataset("out", partitioning="hive").to_table()
        assert found["id"].to_pylist() == [row["ride_id"] for row in rides(600)]
        assert found.group_by("zone").aggregate([("zone", "count")]).to_pylist() == [
            {"zone": 1, "zone_count": 300},
            {"zone": 2, "zone_count": 300},
        ]
        Path("trips/zone=01/a.parquet").unlink()
        scored_now("minutes", "trips/", "out/", partition_by=("zone",))
        assert len(pads.dataset("out", partitioning="hive").to_table()) == 600  # that of January was kept

    @pytest.mark.parametrize("values", [("007", "13"), ("7", "__HIVE_DEFAULT_PARTITION__"), ("a%2Fb", "1")])
    def test_a_folder_gives_the_text_of_its_name_to_a_field_of_text(
        self, values: tuple[str, str], scored_now: ScoreNow
    ) -> None:
        for first, value in enumerate(values):
            path = Path(f"trips/area={value}")
            path.mkdir(parents=True)
            table = pa.Table.from_pylist(rides(1, first=first)).drop_columns(["zone"])
            pq.write_table(table, path / "a.parquet")
        summary = scored_now("areas", "trips/", "out.jsonl")
        assert summary.rejected == 0
        named = {"a%2Fb": "a/b", "__HIVE_DEFAULT_PARTITION__": None}
        assert {row["id"]: row["value"] for row in read("out.jsonl").rows} == {
            f"r-{n:07d}": named.get(value, value) or "none" for n, value in enumerate(values)
        }

    def test_a_run_is_resumed_in_the_middle_of_a_file(self, scored_now: ScoreNow) -> None:
        Path("trips").mkdir()
        for number in range(3):
            write(f"trips/{number}.parquet", rides(100, first=100 * number))
        write("trips/3.parquet", [{**rides(1)[0], "zone": 13, "ride_id": "bad"}])
        with pytest.raises(JobError, match="--max-rejects"):
            scored_now("minutes", "trips", "out.parquet", chunk=30, checkpoint=0.0, max_rejects=0)
        summary = scored_now("minutes", "trips", "out.parquet", chunk=30)
        assert (summary.resumed, summary.read) == (301, 301)
        assert [row["id"] for row in read("out.parquet").rows] == [row["ride_id"] for row in rides(300)]

    def test_a_changed_file_begins_the_run_anew(self, scored_now: ScoreNow) -> None:
        Path("trips").mkdir()
        write("trips/0.parquet", [*rides(9), {**rides(1)[0], "zone": 13, "ride_id": "bad"}])
        with pytest.raises(JobError, match="--max-rejects"):
            scored_now("minutes", "trips", "out.parquet", checkpoint=0.0, max_rejects=0)
        write("trips/1.parquet", rides(1, first=50))
        assert scored_now("minutes", "trips", "out.parquet").resumed == 0

    def test_a_column_that_only_some_files_have_is_null_in_the_others(self, scored_now: ScoreNow) -> None:
        Path("trips").mkdir()
        for number, missing in enumerate(("passengers", "", "zone", "ride_id")):
            table = pa.Table.from_pylist(rides(2, first=2 * number))
            pq.write_table(table.drop_columns([missing] if missing else []), f"trips/{number}.parquet")
        summary = scored_now("untyped", "trips", "out.jsonl", id_column="ride_id")
        assert (summary.read, summary.rejected) == (8, 2)
        summary = scored_now("minutes", "trips", "out.parquet")
        assert (summary.read, summary.rejected) == (8, 4)
        assert [row["id"] for row in read("out.parquet").rows] == [row["ride_id"] for row in rides(4)]

    def test_a_column_that_a_later_file_adds_is_read(self, scored_now: ScoreNow) -> None:
        Path("trips").mkdir()
        pq.write_table(pa.Table.from_pylist(rides(2)).drop_columns(["zone"]), "trips/0.parquet")
        write("trips/1.parquet", rides(2, first=2))
        assert scored_now("minutes", "trips", "out.parquet").written == 2

    @pytest.mark.parametrize("target", ["trips/out.parquet", "trips/month=1/", "trips/"])
    def test_a_target_in_the_folder_that_is_read_is_refused(self, target: str, scored_now: ScoreNow) -> None:
        Path("trips").mkdir()
        write("trips/0.parquet", rides(2))
        with pytest.raises(TargetError, match="the run would write into its own source"):
            scored_now("minutes", "trips/", target)

    def test_a_folder_of_other_files_is_not_replaced(self, scored_now: ScoreNow) -> None:
        write("rides.parquet", rides(2))
        Path("notes").mkdir()
        Path("notes/a.txt").write_text("x")
        with pytest.raises(TargetError, match=r"notes: the folder exists and holds no pred.*Parquet"):
            scored_now("minutes", "rides.parquet", "notes/")

    def test_columns_to_partition_by_are_checked_at_start(self, scored_now: ScoreNow) -> None:
        write("rides.parquet", rides(2))
        with pytest.raises(ConfigError, match=r"--partition-by: out\.parquet is no folder"):
            scored_now("minutes", "rides.parquet", "out.parquet", partition_by=("zone",))
        with pytest.raises(ConfigError, match="--partition-by: there is no column 'month'; there are: id, "):
            scored_now("minutes", "rides.parquet", "out/", partition_by=("month",))


@pytest.mark.parametrize(
    ("text", "form", "name"),
    [
        ("s3://b/k/rides.parquet", "parquet", "rides.parquet"),
        ("https://h/rides.csv?sig=1", "csv", "rides.csv"),
        ("gs://b/trips/", "dataset", "trips"),
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
