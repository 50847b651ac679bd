"""`eventml init`: a project that runs at once, and deployment files that their own tools accept."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from eventml.deploy.batch.locations import SqlLocation, parse_location

if TYPE_CHECKING:
    from tests.cli.conftest import Invoke

REPOSITORY = Path(__file__).parents[2]
PODS = {"run.yaml": "Deployment", "serve.yaml": "Deployment", "score.yaml": "CronJob"}


@pytest.fixture
def project(invoke: Invoke, folder: Path) -> Path:
    """A project with all deployment files."""
    written = invoke("init", "ride_times", "--with", "docker,kubernetes")
    assert written.exit_code == 0, written.output
    return folder / "ride_times"


def tool(project: Path, *command: str) -> str:
    """Run a command in the project. Returns its output; it must succeed."""
    done = subprocess.run(  # noqa: S603 - ours
        command,
        cwd=project,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def program(name: str) -> str:
    """A program that is installed beside this Python; the test is skipped where it has no wheel."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed: it has no wheel for this machine")
    return found


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))


def pod(file: Path) -> dict[str, Any]:
    workload = next(one for one in documents(file) if one["kind"] == PODS[file.name])
    spec = workload["spec"]
    found: dict[str, Any] = spec.get("jobTemplate", {"spec": spec})["spec"]["template"]["spec"]
    return found


# The command


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ride-times", "use lower-case letters, digits and single underscores"),
        ("9rides", "beginning with a letter"),
        ("Rides", "use lower-case letters"),
        ("../rides", "use lower-case letters"),
        ("r" * 41, "40 characters at most"),
        ("class", "'class' is a word or a module of Python already"),
        ("json", "'json' is a word or a module of Python already"),
        ("numpy", "'numpy' is a word or a module of Python already"),
        ("models", "or a file of the project"),  # git would ignore the package
        ("kubernetes", "or a file of the project"),
    ],
)
def test_a_name_that_is_no_package_of_its_own_is_refused(
    name: str, reason: str, invoke: Invoke, folder: Path
) -> None:
    refused = invoke("init", name)
    assert refused.exit_code == 2
    assert reason in refused.stderr
    assert list(folder.iterdir()) == []


def test_nothing_is_overwritten(invoke: Invoke, folder: Path) -> None:
    (folder / "rides").mkdir()
    (folder / "rides" / "train.py").write_text("mine")
    refused = invoke("init", "rides")
    assert refused.exit_code == 2
    assert "rides exists: nothing is overwritten; choose another name" in refused.stderr
    assert [file.read_text() for file in (folder / "rides").iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["sklearn", "pytest"])
def test_a_module_that_the_project_needs_is_no_name(
    name: str, invoke: Invoke, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)  # as in `uvx eventml init`
    assert invoke("init", name).exit_code == 2
    assert not (folder / name).exists()


def test_a_folder_that_cannot_be_made_is_named(invoke: Invoke, folder: Path) -> None:
    (folder / "rides").symlink_to(folder / "nowhere")
    refused = invoke("init", "rides")
    assert refused.exit_code == 2
    assert "error: rides cannot be written: File exists" in refused.stderr


def test_an_unknown_deployment_is_refused(invoke: Invoke, folder: Path) -> None:
    refused = invoke("init", "rides", "--with", "docker,helm")
    assert refused.exit_code == 2
    assert "--with helm: unknown; there are docker and kubernetes" in refused.stderr
    assert not (folder / "rides").exists()


def test_deployment_files_are_written_where_they_are_asked_for(invoke: Invoke, folder: Path) -> None:
    invoke("init", "plain")
    assert not {"Dockerfile", "compose.yaml", "kubernetes"} & {
        file.name for file in (folder / "plain").iterdir()
    }
    assert "docker" not in (folder / "plain" / "README.md").read_text()
    invoke("init", "imaged", "--with", "docker")
    assert (folder / "imaged" / "Dockerfile").exists()
    assert not (folder / "imaged" / "kubernetes").exists()
    assert "docker compose up" in (folder / "imaged" / "README.md").read_text()


def test_it_prints_the_next_commands_which_the_readme_has_too(invoke: Invoke, folder: Path) -> None:
    shown = invoke("init", "rides").stdout
    commands = re.findall(r"^  (.+)$", shown, re.MULTILINE)
    assert commands[0] == "cd rides"
    assert "python train.py" in commands
    assert "eventml check rides.app:bus" in commands
    readme = (folder / "rides" / "README.md").read_text()
    assert "\n".join(commands[1:]) in readme


# The project


def test_no_placeholder_is_left(project: Path) -> None:
    for file in filter(Path.is_file, project.rglob("*")):
        assert not re.search(r"\$(name|slug|version|python|deploying)|NAME|\.tmpl", file.read_text()), file
    assert (project / ".gitignore").exists()
    assert (project / ".dockerignore").exists()


def test_the_source_is_formatted_and_typed(project: Path) -> None:
    tool(project, program("ruff"), "format", "--isolated", "--line-length", "110", "--check", ".")
    tool(project, program("ruff"), "check", "--isolated", ".")
    tool(project, program("mypy"), "--ignore-missing-imports", "ride_times", "train.py", "simulate.py")


@pytest.mark.slow
def test_the_project_trains_tests_checks_and_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "models/duration.skops: RMSE" in tool(project, sys.executable, "train.py")
    assert "3 passed" in tool(project, sys.executable, "-m", "pytest", "-q", "-p", "no:schemathesis")
    eventml = (sys.executable, "-m", "eventml")
    monkeypatch.setenv("BACKEND_URL", "redis://:secret@redis.example:6379/0")
    for profile, url in (((), "memory://"), (("--profile", "prod"), "redis://:***@redis.example:6379/0")):
        checked = tool(project, *eventml, "check", "ride_times.app:bus", *profile)
        assert url in checked
        assert "no problems" in checked
    assert "1,000 predictions on rides.duration" in tool(project, sys.executable, "simulate.py")
    scored = ("score", "ride_times.app:duration", "--from", "data/rides.csv", "--to", "data/durations.csv")
    tool(project, *eventml, *scored)
    assert len((project / "data" / "durations.csv").read_text().splitlines()) == 1_001
    tool(project, *eventml, "run", "ride_times.app:bus", "--until-idle", "0.1")


# The deployment files


@pytest.mark.parametrize("file", ["Dockerfile", str(REPOSITORY / "deployment" / "Dockerfile")])
def test_hadolint_finds_nothing_in_a_dockerfile(file: str, project: Path) -> None:
    assert tool(project, program("hadolint"), file) == ""


def test_the_image_takes_what_the_project_has(project: Path) -> None:
    copied = re.findall(r"^COPY (?!--from)(\S+) ", (project / "Dockerfile").read_text(), re.MULTILINE)
    ignored = (project / ".dockerignore").read_text().splitlines()
    for name in copied:
        assert f"!{name}" in ignored
        assert (project / name).exists() or name == "models"  # which train.py makes


def test_compose_files_are_valid(project: Path) -> None:
    compose_spec = pytest.importorskip("compose_spec")
    ours = [REPOSITORY / "deployment" / "compose.kafka.yaml", REPOSITORY / "backends" / "compose.yaml"]
    for file in (project / "compose.yaml", *ours):
        [compose] = documents(file)
        compose_spec.PyCompose.from_json(json.dumps(compose))  # refuses unknown fields
    [compose] = documents(project / "compose.yaml")
    assert {"run", "serve", "score", "redis"} == set(compose["services"])


def test_the_redis_of_the_compose_file_keeps_its_data_and_is_bounded(
    project: Path, tmp_path: Path, start_redis: Any
) -> None:
    """The options are passed to a real server, and read back."""
    [compose] = documents(project / "compose.yaml")
    program, *options = compose["services"]["redis"]["command"]
    assert program == "redis-server"
    assert options[::2] == [word for word in options if word.startswith("--")]
    given = dict(zip((name.removeprefix("--") for name in options[::2]), options[1::2], strict=True))
    server = start_redis(settings=given)
    wanted = {"appendonly": "yes", "maxmemory": str(512 << 20), "maxmemory-policy": "noeviction"}
    redis = pytest.importorskip("redis")
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        for name, value in wanted.items():
            assert client.config_get(name) == {name: value}
    assert "retention = " in (project / "eventml.toml").read_text().partition("[profile.prod.backend]")[2]


def test_the_manifests_match_the_schemas_of_kubernetes(project: Path) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    checked = set()
    for file in PODS:
        for document in documents(project / "kubernetes" / file):
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
            checked.add(document["kind"])
    assert checked == {"Deployment", "PodDisruptionBudget", "Service", "CronJob"}


def test_kustomize_renders_all_parts_with_the_image(project: Path) -> None:
    [kustomization] = documents(project / "kubernetes" / "kustomization.yaml")
    assert kustomization["resources"] == list(PODS)
    if kubectl := shutil.which("kubectl"):
        rendered = tool(project, kubectl, "kustomize", "kubernetes")
        assert rendered.count("image: ride-times:1\n") == 3


@pytest.mark.parametrize("file", PODS)
def test_a_pod_ignores_service_links_and_runs_the_app(file: str, project: Path, invoke: Invoke) -> None:
    spec = pod(project / "kubernetes" / file)
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    [container] = spec["containers"]
    command, target = container["args"][:2]
    assert f"{command}.yaml" == file
    assert target.startswith("ride_times.app:")
    options = {word for word in container["args"] if word.startswith("--")}
    assert options <= set(re.findall(r"--[a-z-]+", invoke(command, "--help").output))


def test_the_batch_job_has_the_variables_of_its_locations(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [container] = pod(project / "kubernetes" / "score.yaml")["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], "p@ss")
    arguments = dict(zip(container["args"][2::2], container["args"][3::2], strict=True))
    for option in ("--from", "--to"):
        location = parse_location(arguments[option], option=option)
        assert isinstance(location, SqlLocation)
        assert "p%40ss" in location.url


@pytest.mark.parametrize("file", ["run.yaml", "serve.yaml"])
def test_probes_ask_the_operations_port(file: str, project: Path) -> None:
    [container] = pod(project / "kubernetes" / file)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert f"0.0.0.0:{ports['operations']}" in container["args"]
    for probe, path in (("liveness", "/livez"), ("readiness", "/readyz"), ("startup", "/livez")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "operations"}
    grace = pod(project / "kubernetes" / file)["terminationGracePeriodSeconds"]
    assert grace > 30 + 5, "drain, and the time that workers may take to exit"


def test_keda_scales_the_deployment_of_run_by_the_group_of_the_app(project: Path) -> None:
    [scaled] = documents(project / "kubernetes" / "keda.yaml")
    [run] = [one for one in documents(project / "kubernetes" / "run.yaml") if one["kind"] == "Deployment"]
    assert scaled["spec"]["scaleTargetRef"] == {"name": run["metadata"]["name"]}
    assert scaled["spec"]["minReplicaCount"] == run["spec"]["replicas"]
    [trigger] = scaled["spec"]["triggers"]
    assert set(re.findall(r'group="([^"]+)"', trigger["metadata"]["query"])) == {"ride_times.duration"}
    assert all(type(value) is str for value in trigger["metadata"].values()), "KEDA accepts text only"


def test_a_service_and_its_pods_have_one_label(project: Path) -> None:
    kinds = {one["kind"]: one["spec"] for one in documents(project / "kubernetes" / "serve.yaml")}
    labels = kinds["Deployment"]["template"]["metadata"]["labels"]
    assert kinds["Service"]["selector"] == labels == kinds["Deployment"]["selector"]["matchLabels"]
    assert kinds["PodDisruptionBudget"]["selector"]["matchLabels"] == labels
