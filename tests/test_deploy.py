"""The files under deploy/ fit the code and each other; the roles that need no container really run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dcgan_core.config import load_config
from dcgan_core.errors import NotAllowed
from dcgan_core.place import Place

PROJECT = Path(__file__).parent.parent
DEPLOY = PROJECT / "deploy"
ENTRYPOINT = DEPLOY / "entrypoint.sh"
YAML_FILES = sorted(DEPLOY.rglob("*.yaml"))
BASE = DEPLOY / "kubernetes" / "base"
ROLES = {"server", "deploy", "worker", "ray-head", "ray-worker"}
PLACE_VARIABLES = {f"DCGAN_{name.upper()}" for name in Place.model_fields}
IMAGE_VARIABLES = {"DCGAN_IMAGE"}  # of compose.yaml itself, not of the containers


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_yaml_parses_and_says_something(path: Path) -> None:
    assert all(documents(path))


@pytest.mark.parametrize("path", [*YAML_FILES, ENTRYPOINT, DEPLOY / "Dockerfile", DEPLOY / "README.md"])
def test_every_dcgan_variable_is_one_that_place_knows(path: Path) -> None:
    used = set(re.findall(r"\bDCGAN_[A-Z0-9_]+", path.read_text()))
    assert used <= PLACE_VARIABLES | IMAGE_VARIABLES


def test_entrypoint_is_executable_bash_without_syntax_errors() -> None:
    assert os.access(ENTRYPOINT, os.X_OK)
    subprocess.run(["bash", "-n", str(ENTRYPOINT)], check=True)


def test_entrypoint_knows_exactly_the_roles() -> None:
    branches = re.findall(r"^    ([a-z-]+)\) [a-z_]+ ;;$", ENTRYPOINT.read_text(), re.MULTILINE)
    assert set(branches) == ROLES


def test_compose_services_are_the_roles() -> None:
    services = compose()["services"]
    assert {service["command"][0] for service in services.values()} == ROLES
    assert all(len(service["command"]) == 1 for service in services.values())


def test_compose_variables_without_default_are_explained_when_missing() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    for name, rest in re.findall(r"\$\{([A-Z0-9_]+)([^}]*)\}", text):
        assert rest.startswith((":-", ":?")), f"{name} has neither a default nor a message"
    assert "${RAY_AUTH_TOKEN:?" in text


def test_all_that_work_share_root_and_token_in_compose() -> None:
    services = compose()["services"]
    workers = [services[name] for name in ("worker", "ray-head", "ray-worker")]
    for key in ("DCGAN_ROOT", "DCGAN_S3_ENDPOINT_URL", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        assert len({str(service["environment"][key]) for service in workers}) == 1
    assert all("artifacts:/data" in service["volumes"] for service in workers)


def test_runs_may_name_only_what_the_manifests_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    (config,) = documents(BASE / "config.yaml")
    of_compose = {
        name: re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", str(value))
        for name, value in compose()["services"]["worker"]["environment"].items()
    }
    for environment in (config["data"], of_compose):
        monkeypatch.setenv("DCGAN_ALLOWED_PATHS", environment["DCGAN_ALLOWED_PATHS"])
        monkeypatch.setenv("DCGAN_ENGINES", environment["DCGAN_ENGINES"])
        for place in environment["DCGAN_ALLOWED_PATHS"].split(","):
            load_config("faces64", {"scrape.path": f"{place}/mine"})
        load_config("demo")
        secrets = {
            "scrape.path": "/proc/self/environ",
            "crop.weights": "/etc/passwd",
            "scrape.engine": "os:system",
        }
        for key, value in secrets.items():
            with pytest.raises(NotAllowed):
                load_config("faces64", {key: value})


def test_gpu_override_changes_only_services_that_exist() -> None:
    override = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text())
    assert set(override["services"]) <= set(compose()["services"])


def test_flows_are_drivers_inside_the_ray_cluster() -> None:
    pod = next(pod for kind, pod in pods() if kind == "worker")
    variables = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    for environment in (variables, compose()["services"]["worker"]["environment"]):
        assert environment["DCGAN_RAY_ADDRESS"] == "auto"
    raylet = re.search(r"start_ray --address=\S+ (.*) &", ENTRYPOINT.read_text())
    assert raylet
    assert "--num-cpus=0" in raylet.group(1)


def test_where_there_are_gpus_they_are_asked_for_and_not_replaced_by_processors() -> None:
    override = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text())
    (config,) = documents(DEPLOY / "kubernetes" / "gpu" / "config.yaml")
    for variables in (override["services"]["worker"]["environment"], config["data"]):
        assert int(variables["DCGAN_GPUS"]) == 1


def test_kustomization_lists_every_manifest() -> None:
    for folder in (BASE, DEPLOY / "kubernetes" / "gpu"):
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        listed = {*kustomization["resources"], *(each["path"] for each in kustomization.get("patches", []))}
        assert {name for name in listed if name.endswith(".yaml")} | {"kustomization.yaml"} == {
            path.name for path in folder.iterdir()
        }


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize(("folder", "gpus"), [("base", None), ("gpu", 1)])
def test_kustomize_builds_and_gives_ray_workers_their_gpus(folder: str, gpus: int | None) -> None:
    built = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / "kubernetes" / folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    objects = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(built.stdout)}
    (container,) = objects["Deployment", "ray-worker"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"].get("nvidia.com/gpu") == gpus
    assert container["image"] != "dcgan"  # the kustomization names the pushed image
    del objects["Namespace", "dcgan"]
    assert {each["metadata"]["namespace"] for each in objects.values()} == {"dcgan"}


def test_pods_are_the_roles_and_run_without_privileges() -> None:
    seen = set()
    for _, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["enableServiceLinks"] is False  # they would set PREFECT_SERVER_PORT and the like
        (container,) = pod["containers"]
        assert container["image"] == "dcgan"
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= set(container["resources"])
        seen.update(container["args"])
    assert seen == ROLES


def test_pods_refer_to_config_and_secret_that_exist() -> None:
    secret = yaml.safe_load((DEPLOY / "kubernetes" / "secret.example.yaml").read_text())
    (config,) = documents(BASE / "config.yaml")
    names = {secret["metadata"]["name"], config["metadata"]["name"]}
    for _, pod in pods():
        sources = pod["containers"][0].get("envFrom", [])
        assert {next(iter(source.values()))["name"] for source in sources} <= names
    assert secret["stringData"]["RAY_AUTH_TOKEN"] == "CHANGE-ME"


def test_same_ports_in_probes_and_addresses() -> None:
    (config,) = documents(BASE / "config.yaml")
    services = {
        each["metadata"]["name"]: {port["port"] for port in each["spec"]["ports"]}
        for path in BASE.glob("*.yaml")
        for each in documents(path)
        if each["kind"] == "Service"
    }
    for address in (config["data"]["PREFECT_API_URL"], f"//{config['data']['RAY_HEAD_ADDRESS']}"):
        found = re.search(r"//([a-z-]+):(\d+)", address)
        assert found
        assert int(found.group(2)) in services[found.group(1)]


def test_image_copies_only_what_exists_and_reaches_the_builder() -> None:
    allowed = {
        line.removeprefix("!")
        for line in (PROJECT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied: set[str] = set()
    for sources in re.findall(r"^COPY (.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE):
        copied.update(sources.split())
    assert copied == allowed
    assert all((PROJECT / source).exists() for source in copied)


def test_any_command_passes_through_the_entrypoint() -> None:
    said = subprocess.run([ENTRYPOINT, "echo", "a b", "c"], check=True, capture_output=True, text=True)
    assert said.stdout == "a b c\n"


def test_without_a_role_the_entrypoint_lists_the_roles() -> None:
    said = subprocess.run([ENTRYPOINT], capture_output=True, text=True)
    assert said.returncode == 2
    assert all(role in said.stderr for role in ROLES)


def test_ray_does_not_start_without_a_token() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    said = subprocess.run([ENTRYPOINT, "ray-head"], env=environment, capture_output=True, text=True)
    assert said.returncode == 2
    assert "RAY_AUTH_TOKEN" in said.stderr


@pytest.mark.slow
def test_server_deploy_and_worker_find_each_other(tmp_path: Path) -> None:
    pytest.importorskip("prefect", reason="needs the extra pipeline")
    api, health = free_port(), free_port()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "RAY_"))},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{api}/api",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(api),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(tmp_path / "ui"),
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
        "PREFECT_WORKER_WEBSERVER_PORT": str(health),
        "DO_NOT_TRACK": "1",
        "DCGAN_ROOT": str(tmp_path / "data"),
    }
    with role("server", environment, tmp_path) as server:
        for _ in range(2):  # it may be repeated: a new image deploys again
            subprocess.run([ENTRYPOINT, "deploy"], cwd=PROJECT, env=environment, check=True, timeout=300)
        declared = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
        assert len(post(f"{environment['PREFECT_API_URL']}/deployments/filter")) == len(declared)

        with role("worker", environment, tmp_path) as worker:
            worker.wait_until_it_says("started!")
            assert status(f"http://127.0.0.1:{health}/health") == 200
            found = post(f"{environment['PREFECT_API_URL']}/work_pools/dcgan/workers/filter")
            assert [each["status"] for each in found] == ["ONLINE"]
        assert worker.process.returncode == 0
        assert status(f"http://127.0.0.1:{api}/") == 200  # the UI
    assert server.process.returncode is not None


@dataclass(frozen=True)
class Role:
    """A role of the entrypoint as a process of its own, with what it says."""

    process: subprocess.Popen[str]

    def wait_until_it_says(self, text: str) -> None:
        assert self.process.stdout
        said = []
        for line in self.process.stdout:
            said.append(line)
            if text in line:
                return
        raise AssertionError(f"it ended before it said {text!r}:\n{''.join(said)}")


@contextmanager
def role(name: str, environment: dict[str, str], folder: Path) -> Iterator[Role]:
    process = subprocess.Popen(
        [ENTRYPOINT, name],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield Role(process)
    finally:
        process.terminate()
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def pods() -> list[tuple[str, dict[str, Any]]]:
    """Name and pod template of everything that starts pods."""
    return [
        (each["metadata"]["name"], each["spec"]["template"]["spec"])
        for path in sorted(BASE.glob("*.yaml"))
        for each in documents(path)
        if each["kind"] in ("Deployment", "Job")
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def status(url: str) -> int:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.status


def post(url: str) -> list[dict[str, Any]]:
    request = urllib.request.Request(url, b"{}", {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return yaml.safe_load(answer.read())
