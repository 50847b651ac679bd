"""Registries, each with a server on this machine: what a reference names now, the cache, and secrets."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
import skops.io
from sklearn.linear_model import LinearRegression

from eventml.errors import (
    ModelError,
    ModelNotFoundError,
    ModelTamperedError,
    UntrustedModelError,
)
from eventml.models import Artefact, current_version, load, remote_files, replacement
from tests.limits import started
from tests.model_updates.test_model_updates import adding, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    # The clients leave their connections to the end of the process.
    pytest.mark.filterwarnings(
        "ignore:.*:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]


def model_file(slope: float, name: str = "duration.skops", *, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    skops.io.dump(LinearRegression().fit([[0.0], [1.0]], [0.0, slope]), folder / name)
    return folder / name


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def slope(reference: str | Artefact) -> float:
    return round(float(load(reference, name="x").object.predict([[1.0]])[0]), 6)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVENTML_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


class Site(NamedTuple):
    """A web server: the content of files by path, the requests so far, and its address."""

    files: dict[str, bytes]
    requests: list[str]
    url: str


class Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, site: Callable[[], Site], *args: Any) -> None:
        self.site = site
        super().__init__(*args)

    def answer(self) -> None:
        site, path = self.site(), urlsplit(self.path).path
        site.requests.append(f"{self.command} {path}")
        content = site.files.get(unquote(path))
        self.send_response(404 if content is None else 200)
        self.headers_for(path, content or b"")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content or b"")

    def headers_for(self, path: str, content: bytes) -> None:
        if not path.startswith("/undated"):
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')

    do_GET = do_HEAD = do_POST = answer  # noqa: N815 - the names of http.server

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def serving(handler: type[Handler]) -> Iterator[Site]:
    site: Site
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, lambda: site))
    site = Site({}, [], f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    yield from serving(Handler)


class TestHttps:
    def test_it_is_downloaded_once_and_again_when_it_changes(
        self, site: Site, tmp_path: Path, cache: Path
    ) -> None:
        reference = f"{site.url}/models/duration.skops"
        first, second = (model_file(n, folder=tmp_path / str(n)).read_bytes() for n in (1, 2))
        site.files["/models/duration.skops"] = first
        model = load(reference, name="x")
        assert (model.name, model.version) == ("duration", hashlib.sha256(first).hexdigest()[:12])
        assert current_version(reference) == model.version
        site.requests.clear()
        assert slope(reference) == 1.0
        assert not [request for request in site.requests if request.startswith("GET")]
        site.files["/models/duration.skops"] = second
        assert current_version(reference) == hashlib.sha256(second).hexdigest()[:12]
        assert slope(reference) == 2.0
        site.files["/models/duration.skops"] = first  # back to the old one
        site.requests.clear()
        assert current_version(reference) == model.version
        assert slope(reference) == 1.0
        assert not [request for request in site.requests if request.startswith("GET")]

    def test_a_pin_holds(self, site: Site, tmp_path: Path) -> None:
        path = model_file(1, folder=tmp_path)
        site.files["/m.skops"] = path.read_bytes()
        assert slope(Artefact(f"{site.url}/m.skops", sha256=digest(path))) == 1.0
        with pytest.raises(ModelTamperedError):
            load(Artefact(f"{site.url}/m.skops", sha256="0" * 64), name="x")

    def test_a_model_in_the_place_of_a_pinned_one_needs_its_sha256(self, site: Site, tmp_path: Path) -> None:
        path = model_file(1, folder=tmp_path)
        site.files["/m.skops"], code = path.read_bytes(), Artefact("a.skops", sha256="0" * 64)
        for ask in (current_version, slope):
            with pytest.raises(ModelError, match="set model_sha256"):
                ask(replacement(code, f"{site.url}/m.skops"))  # type: ignore[arg-type]
        source = replacement(code, f"{site.url}/m.skops", digest(path))
        assert load(source, name="x").version == digest(path)[:12]
        assert current_version(source) is None

    def test_a_missing_model_is_named_without_its_secrets(self, site: Site) -> None:
        reference = f"{site.url}/gone.skops?token=secret".replace("//", "//user:secret@")
        for ask in (current_version, slope):
            with pytest.raises(ModelNotFoundError, match=r"no model at http://127\.0\.0\.1:\d+/gone\.skops$"):
                ask(reference)

    def test_a_server_that_is_away_is_an_error_without_secrets(self, site: Site) -> None:
        reference = "http://127.0.0.1:1/m.skops?token=secret"
        with pytest.raises(
            ModelError, match=r"the model at http://127\.0\.0\.1:1/m\.skops cannot be read"
        ) as caught:
            current_version(reference)
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_a_server_without_etags_and_dates_is_refused(self, site: Site) -> None:
        site.files["/undated.skops"] = b"x"
        with pytest.raises(ModelError, match="neither an ETag nor a date"):
            load(f"{site.url}/undated.skops", name="x")

    def test_a_model_that_changes_while_it_is_downloaded_is_not_kept(
        self, tmp_path: Path, cache: Path
    ) -> None:
        old, new = (model_file(n, folder=tmp_path / str(n)).read_bytes() for n in (1, 2))

        class Changing(Handler):
            def answer(self) -> None:
                super().answer()
                if self.command == "GET":
                    self.site().files["/m.skops"] = new

            do_GET = do_HEAD = answer  # noqa: N815 - the names of http.server

        for site in serving(Changing):
            site.files["/m.skops"] = old
            with pytest.raises(ModelError, match="changed while it was downloaded; load it again"):
                load(f"{site.url}/m.skops", name="x")
            assert list(cache.iterdir()) == []
            assert slope(f"{site.url}/m.skops") == 2.0

    def test_another_machine_without_encryption_needs_a_pin(self) -> None:
        for ask in (current_version, slope):
            with pytest.raises(UntrustedModelError, match=r"it needs a sha256; or use https"):
                ask("http://models.example/m.skops")

    def test_another_process_may_download_it_meanwhile(
        self, site: Site, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reference, fetch = f"{site.url}/m.skops", remote_files.fetch
        site.files["/m.skops"] = model_file(3, folder=tmp_path).read_bytes()

        def after_another(*args: Any) -> None:
            monkeypatch.setattr(remote_files, "fetch", fetch)
            assert slope(reference) == 3.0
            fetch(*args)

        monkeypatch.setattr(remote_files, "fetch", after_another)
        assert slope(reference) == 3.0
        assert len(list(cache.iterdir())) == 1

    def test_several_processes_may_load_at_once(self, site: Site, tmp_path: Path, cache: Path) -> None:
        site.files["/m.skops"] = model_file(3, folder=tmp_path).read_bytes()
        code = f"from eventml.models import load; print(load('{site.url}/m.skops', name='x').version)"
        running = [
            subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
            for _ in range(2)
        ]
        versions = {process.communicate(timeout=60)[0] for process in running}
        assert len(versions) == 1
        assert len(list(cache.iterdir())) == 1

    def test_a_cache_that_cannot_be_written_is_an_error(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.files["/m.skops"] = model_file(3, folder=tmp_path).read_bytes()
        (tmp_path / "file").touch()
        monkeypatch.setenv("EVENTML_CACHE", str(tmp_path / "file"))
        with pytest.raises(ModelError, match=r"m\.skops cannot be read: .*file/models"):
            load(f"{site.url}/m.skops", name="x")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    settings = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}
    for name, value in {**settings, "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    yield partial(client.put_object, Bucket="models")
    client.close()
    server.stop()


class TestS3:
    def test_a_file_is_loaded_until_another_is_there(self, bucket: Any, tmp_path: Path) -> None:
        reference = "s3://models/rides/duration.skops"
        with pytest.raises(ModelNotFoundError, match=r"no model at s3://models/rides/duration\.skops"):
            load(reference, name="x")
        for value in (1.0, 2.0):
            path = model_file(value, folder=tmp_path)
            bucket(Key="rides/duration.skops", Body=path.read_bytes())
            model = load(reference, name="x")
            assert (model.name, model.version) == ("duration", digest(path)[:12])
            assert model.version == current_version(reference)
            assert slope(reference) == value

    def test_a_folder_is_loaded_as_a_whole(self, bucket: Any, tmp_path: Path) -> None:
        folder = mlflow_folder(5.0, tmp_path / "saved")
        for file in (path for path in folder.rglob("*") if path.is_file()):
            bucket(Key=f"trips/{file.relative_to(folder)}", Body=file.read_bytes())
        bucket(Key="trips/pytorch_model.bin", Body=b"never loaded")
        model = load("s3://models/trips", name="x")
        assert (model.name, model.version) == ("trips", load(folder, name="x").version)
        assert slope("s3://models/trips/") == 5.0


class Hub(Handler):
    """What the client of Hugging Face's hub asks for: a repository's commit, its files, and their content."""

    def answer(self) -> None:
        site, path = self.site(), unquote(urlsplit(self.path).path)
        commit = hashlib.sha256(repr(sorted(site.files.items())).encode()).hexdigest()[:40]
        site.requests.append(f"{self.command} {path}")
        files = [
            {
                "type": "file",
                "path": name,
                "rfilename": name,
                "size": len(data),
                "oid": hashlib.sha256(data).hexdigest(),
            }
            for name, data in site.files.items()
        ]
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        content: bytes | None = None
        if path.startswith("/api/models/team/rides/paths-info"):
            content = json.dumps([file for file in files if str(file["path"]) in unquote(body)]).encode()
        elif path.startswith("/api/models/team/rides/tree"):
            content = json.dumps(files).encode()
        elif path.startswith("/api/models/team/rides"):
            content = json.dumps({"id": "team/rides", "sha": commit, "siblings": files}).encode()
        elif path.startswith("/team/rides/resolve/"):
            content = site.files.get(path.split("/", 5)[5])
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound" if "/team/rides" in path else "RepoNotFound")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
        self.send_header(
            "Content-Type", "application/json" if path.startswith("/api") else "application/octet-stream"
        )
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content or b"")

    do_GET = do_HEAD = do_POST = answer  # noqa: N815 - the names of http.server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    constants = pytest.importorskip("huggingface_hub.constants")
    for site in serving(Hub):
        monkeypatch.setattr(constants, "ENDPOINT", site.url)
        template = f"{site.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        sys.modules["huggingface_hub"].HfFileSystem.clear_instance_cache()
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield site


class TestHub:
    def test_a_file_is_loaded_until_another_is_there(self, hub: Site, tmp_path: Path) -> None:
        for value in (1.0, 2.0):
            path = model_file(value, folder=tmp_path)
            hub.files["duration.skops"] = path.read_bytes()
            model = load("hf:team/rides/duration.skops", name="x")
            assert (model.name, model.version) == ("duration", digest(path)[:12])
            assert model.version == current_version("hf:team/rides/duration.skops")
            assert slope("hf://team/rides/duration.skops") == value

    def test_a_repository_is_loaded_as_a_folder_without_its_pickles(self, hub: Site, tmp_path: Path) -> None:
        folder = mlflow_folder(4.0, tmp_path / "saved")
        for file in (path for path in folder.rglob("*") if path.is_file()):
            hub.files[str(file.relative_to(folder))] = file.read_bytes()
        hub.files["pytorch_model.bin"] = b"never loaded"
        model = load("hf:team/rides", name="x")
        assert (model.name, model.version) == ("rides", load(folder, name="x").version)
        assert not [request for request in hub.requests if request.endswith("resolve/main/pytorch_model.bin")]

    def test_a_revision_can_be_named(self, hub: Site, tmp_path: Path) -> None:
        hub.files["duration.skops"] = model_file(1.0, folder=tmp_path).read_bytes()
        assert slope("hf:team/rides@v1.2/duration.skops") == 1.0
        assert "GET /api/models/team/rides/revision/v1.2" in hub.requests
        assert load("hf:team/rides@v1.2", name="x").name == "rides"

    def test_what_is_not_there_is_said(self, hub: Site) -> None:
        for reference in ("hf:team/rides/gone.skops", "hf:nobody/nothing/m.skops"):
            with pytest.raises(ModelNotFoundError, match=reference):
                load(reference, name="x")


def mlflow_folder(value: float, folder: Path) -> Path:
    """A model as MLflow saves it: its description beside the model's file."""
    model_file(value, "model.skops", folder=folder)
    (folder / "MLmodel").write_text(
        "flavors:\n  sklearn:\n    pickled_model: model.skops\n    serialization_format: skops\n"
    )
    return folder


def log(folder: Path, client: Any, uri: str, name: str) -> str:
    """Register a folder as the next version of a model, and return the version."""
    mlflow = sys.modules["mlflow"]
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(folder), "model")
    if not [one for one in client.search_registered_models() if one.name == name]:
        client.create_registered_model(name)
    source = f"{run.info.artifact_uri}/model"
    return str(client.create_model_version(name, source, run.info.run_id).version)


@pytest.fixture(params=["file store", "tracking server"])
def tracking(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A client of a registry of MLflow that holds the version 1 of the model `rides-duration`."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    store = (tmp_path / "store").as_uri()
    if request.param == "file store":
        yield start(mlflow, store)
        return
    pytest.importorskip("alembic")

    settings = {
        "FILE_STORE": store,
        "REGISTRY_STORE": store,
        "ARTIFACT_ROOT": "mlflow-artifacts:/",
        "ARTIFACT_DESTINATION": (tmp_path / "artifacts").as_uri(),
        "SERVE_ARTIFACTS": "true",
    }
    # What `mlflow server` runs, without its supervisor, which takes half a minute to start.
    code = (
        "from mlflow.server import app; from werkzeug.serving import make_server; "
        "server = make_server('127.0.0.1', 0, app, threaded=True); "
        "print(server.server_port, flush=True); server.serve_forever()"
    )
    environment = {**os.environ, **{f"_MLFLOW_SERVER_{name}": value for name, value in settings.items()}}
    with (tmp_path / "server.log").open("w") as written:
        command, options = [sys.executable, "-c", code], {"env": environment, "text": True}
        with started(command, stdout=subprocess.PIPE, stderr=written, limit=1_000.0, **options) as server:
            yield start(mlflow, f"http://127.0.0.1:{int(server.stdout.readline())}")


def start(mlflow: Any, uri: str) -> Any:
    os.environ["MLFLOW_TRACKING_URI"] = uri
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(uri)


@pytest.mark.filterwarnings("ignore:.*:FutureWarning:mlflow.*", "ignore:.*:DeprecationWarning")
class TestMlflow:
    def test_an_alias_is_followed_and_moved_back(self, tracking: Any, tmp_path: Path) -> None:
        uri, reference = os.environ["MLFLOW_TRACKING_URI"], "mlflow:models:/rides-duration@champion"
        folders = {n: mlflow_folder(float(n), tmp_path / f"v{n}") for n in (1, 2)}
        versions = {n: log(folder, tracking, uri, "rides-duration") for n, folder in folders.items()}
        with pytest.raises(ModelNotFoundError, match="no model at mlflow:models:/rides-duration@champion"):
            load(reference, name="x")
        for n in (1, 2, 1):
            tracking.set_registered_model_alias("rides-duration", "champion", versions[n])
            model = load(reference, name="x")
            assert current_version(reference) == model.version
            assert (model.name, model.version) == ("rides-duration", load(folders[n], name="x").version)
            assert slope(reference) == slope(f"mlflow:models:/rides-duration/{n}") == n

    def test_a_version_that_was_loaded_needs_no_server(
        self, tracking: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log(mlflow_folder(1.0, tmp_path / "v1"), tracking, os.environ["MLFLOW_TRACKING_URI"], "tip")
        assert slope("mlflow:models:/tip/1") == 1.0
        start(sys.modules["mlflow"], "http://127.0.0.1:1")
        assert current_version("mlflow:models:/tip/1") is not None
        assert slope("mlflow:models:/tip/1") == 1.0


@pytest.mark.parametrize("reference", ["mlflow:models:/a", "mlflow:models:/a/Production", "mlflow:runs:/1/a"])
def test_another_form_of_mlflow_s_references_is_refused(reference: str) -> None:
    with pytest.raises(ModelError, match="write mlflow:models:/NAME@ALIAS or mlflow:models:/NAME/VERSION"):
        current_version(reference)


def test_a_pickle_of_mlflow_needs_what_every_pickle_needs(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    folder = mlflow_folder(1.0, tmp_path / "saved")
    (folder / "MLmodel").write_text("flavors:\n  sklearn:\n    pickled_model: model.skops\n")
    for source in (folder, Artefact(folder, pickle=True)):
        with pytest.raises(UntrustedModelError, match="is a pickle"):
            load(source, name="x")


def test_a_folder_of_mlflow_names_no_file_outside_of_it(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    folder = mlflow_folder(1.0, tmp_path / "saved")
    model_file(2.0, "other.skops", folder=tmp_path)
    (folder / "MLmodel").write_text(
        "flavors:\n  sklearn:\n    pickled_model: ../other.skops\n    serialization_format: skops\n"
    )
    with pytest.raises(ModelError, match="names a file outside of it"):
        load(folder, name="x")


def test_a_flavor_that_is_not_known_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / "MLmodel").write_text("flavors:\n  keras:\n    data: x\n")
    with pytest.raises(ModelError, match="has the flavors keras; known are xgboost"):
        load(tmp_path, name="x")


class TestReferences:
    def test_an_unknown_scheme_is_refused_with_the_known_ones(self) -> None:
        with pytest.raises(
            ModelError, match="ftp is no known registry; known are az, gs, hf, http, https, mlflow, s3"
        ):
            load("ftp://host/model.skops", name="x")

    def test_a_file_with_a_colon_in_its_name_is_a_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        model_file(1, "v1:duration.skops", folder=tmp_path)
        assert slope("v1:duration.skops") == 1.0

    @pytest.mark.parametrize(
        ("reference", "module", "extra"),
        [
            ("https://host/m.skops", "fsspec", "https"),
            ("https://host/m.skops", "aiohttp", "https"),
            ("s3://b/m.skops", "s3fs", "s3"),
            ("gs://b/m.skops", "gcsfs", "gs"),
            ("hf:a/b/m.skops", "huggingface_hub", "hf"),
            ("mlflow:models:/a@b", "mlflow", "mlflow"),
        ],
    )
    def test_a_client_that_is_not_installed_is_named_with_its_extra(
        self, reference: str, module: str, extra: str
    ) -> None:
        code = (
            f"import sys; sys.modules[{module!r}] = None; from eventml.models import current_version; "
            f"current_version({reference!r})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603 - our own
        assert f"pip install 'eventml[{extra}]'" in done.stderr


@pytest.mark.anyio
async def test_a_running_worker_follows_what_a_reference_names(site: Site, tmp_path: Path) -> None:
    site.files["/duration.skops"] = model_file(1, folder=tmp_path).read_bytes()
    bus = adding(f"{site.url}/duration.skops")
    async with running(bus) as worker:
        old = await worker.answer(1.0)
        site.files.clear()
        await worker.until(lambda: "no model at http" in worker.stats.model_refused)
        assert await worker.answer(1.0) == old
        site.files["/duration.skops"] = model_file(2, folder=tmp_path).read_bytes()
        await worker.until(lambda: worker.stats.model_updates)
        total, version = await worker.answer(1.0)
    assert (round(old[0], 6), round(total, 6)) == (1.0, 2.0)
    assert version == digest(tmp_path / "duration.skops")[:12]
