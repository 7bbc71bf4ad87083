"""``dcgan-deploy``: bring prefect.yaml and deploy/automations.yaml to a Prefect server.

A deploy is a three-way merge. What the files changed since the last deploy arrives; what an operator set on
the server stays (`prefect deploy` would replace it); where both changed, the operator's stays and is named.
What the files said last is kept on the server, in a variable for each deployment. ``--reset`` takes the
files' side everywhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.importtools import import_object
from prefect.variables import Variable

from tasks.slots import reconcile_slots

PROJECT = Path(__file__).parent.parent
HttpMethod = Literal["POST", "PATCH", "PUT", "DELETE"]
Values = dict[str, Any]
"""Settings by name: `parameters.preset`, `concurrency_limit`, `schedules.weekly.cron`, ..."""
_RULE = ("cron", "interval", "anchor_date", "rrule", "timezone")
"""What makes a schedule's rule; not every rule has all."""


def main() -> None:
    """Deploy the files of the working directory, or of the checkout, to the server of PREFECT_API_URL."""
    parser = argparse.ArgumentParser(prog="dcgan-deploy", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "--reset", action="store_true", help="undo what was changed on the server; each change is named"
    )
    folder = next((each for each in (Path.cwd(), PROJECT) if (each / "prefect.yaml").is_file()), None)
    arguments = parser.parse_args()
    if folder is None:
        sys.exit("there is no prefect.yaml here: run this in a checkout")
    deploy(folder, reset=arguments.reset)


def deploy(folder: Path, *, reset: bool = False) -> None:
    """Merge the files of a folder into the server's work pool, deployments and automations, and say how."""
    wanted = yaml.safe_load((folder / "prefect.yaml").read_text())["deployments"]
    with get_client(sync_client=True) as client:
        for pool in sorted({each["work_pool"]["name"] for each in wanted}):
            _ensure_pool(client, pool)
        for each in wanted:
            _deploy(client, each, reset=reset)
        for automation in yaml.safe_load((folder / "deploy" / "automations.yaml").read_text()):
            _automate(client, automation, reset=reset)
        reconcile_slots(client)


def _ensure_pool(client: SyncPrefectClient, name: str) -> None:
    """Make the work pool if it is not there. One that is there keeps its limit and its job template."""
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        print(f"work pool {name}: made")


def _deploy(client: SyncPrefectClient, entry: Mapping[str, Any], *, reset: bool) -> None:
    flow = cast("Flow[..., Any]", import_object(entry["entrypoint"]))
    name = f"{flow.name}/{entry['name']}"
    file = _of_file(entry)
    fixed = {
        "entrypoint": entry["entrypoint"],
        "enforce_parameter_schema": entry["enforce_parameter_schema"],
        "parameter_openapi_schema": parameter_schema(flow).model_dump(exclude_unset=True),
        "pull_steps": [],
    }
    try:
        there = client.read_deployment_by_name(name).model_dump(mode="json")
    except ObjectNotFound:
        new = {
            "name": entry["name"],
            "flow_id": str(client.create_flow_from_name(flow.name)),
            "work_pool_name": entry["work_pool"]["name"],
            "work_queue_name": entry["work_pool"].get("work_queue_name"),
            **fixed,
            **_fields(file),
            "schedules": [_schedule(file, slug) for slug in _slugs(file)],
        }
        _send(client, "POST", "/deployments/", json=new)
        print(f"{name}: made")
        _remember(name, file)
        return
    last = _remembered(name)
    _adopt_schedule(client, there, file, known=last is not None)
    server = _of_server(there)
    merged, said = merge(last, server, file, reset=reset)
    changed = {key: value for key, value in _fields(merged).items() if value != _fields(server).get(key)}
    changed |= {key: value for key, value in fixed.items() if value != there.get(key)}
    # Nothing to change, nothing sent: an update makes the server plan its next scheduled runs once more.
    if changed:
        _send(client, "PATCH", f"/deployments/{there['id']}", json=changed)
    ids = {each["slug"]: each["id"] for each in there["schedules"] if each.get("slug")}
    for slug in sorted(_slugs(server) | _slugs(merged)):
        before, after = _schedule(server, slug), _schedule(merged, slug)
        path = f"/deployments/{there['id']}/schedules"
        if not before["schedule"]:
            _send(client, "POST", path, json=[after])
        elif not after["schedule"]:
            _send(client, "DELETE", f"{path}/{ids[slug]}")
        elif before != after:
            _send(client, "PATCH", f"{path}/{ids[slug]}", json=after)
    _remember(name, file)
    print(f"{name}: {'unchanged' if not said else ''}".rstrip())
    for line in said:
        print(f"  {line}")


def merge(
    last: Values | None, server: Values, file: Values, *, reset: bool = False
) -> tuple[Values, list[str]]:
    """Settings as they shall be, and a line for each that changes or that the file cannot have.

    ``last`` is what the file said at the last deploy. None (another tool deployed) means that what is on the
    server stays and only what is not there at all is added.
    """
    merged: Values = {}
    said: list[str] = []
    keys: set[str] = {*server, *file, *(last or {})}
    for key in sorted(keys):
        here, there = file.get(key), server.get(key)
        before = last.get(key) if last is not None else None
        if here == there:
            chosen = there
        elif reset:
            chosen = here
            said.append(f"{key}: {there!r} -> {here!r} (reset)")
        elif here != before and there == before:
            chosen = here
            said.append(f"{key}: {there!r} -> {here!r}")
        else:
            chosen = there
            if here != before:
                said.append(f"{key}: {there!r} stays; the file says {here!r} (--reset takes that)")
        if chosen is not None:
            merged[key] = chosen
    return merged, said


def _of_file(entry: Mapping[str, Any]) -> Values:
    limit = entry.get("concurrency_limit") or {}
    values = _named(entry, limit, limit, entry["work_pool"])
    for schedule in entry.get("schedules", []):
        of = f"schedules.{schedule['slug']}"
        values |= {f"{of}.{key}": value for key, value in schedule.items() if key in (*_RULE, "active")}
        values[f"{of}.parameters"] = schedule.get("parameters", {})
    return _said(values)


def _of_server(there: Mapping[str, Any]) -> Values:
    limit, options = there.get("global_concurrency_limit") or {}, there.get("concurrency_options") or {}
    values = _named(there, limit, options, there)
    for schedule in there["schedules"]:
        if schedule.get("slug"):  # one without was made by an operator: nothing of ours
            of = f"schedules.{schedule['slug']}"
            rule = schedule["schedule"]
            values |= {f"{of}.{key}": rule[key] for key in _RULE if key in rule}
            values[f"{of}.active"] = schedule["active"]
            values[f"{of}.parameters"] = schedule.get("parameters") or {}
    return _said(values)


def _named(
    deployment: Mapping[str, Any],
    limit: Mapping[str, Any],
    options: Mapping[str, Any],
    work: Mapping[str, Any],
) -> Values:
    """What the file and the server say alike, each setting by its name; schedules aside."""
    values: Values = {
        "description": deployment.get("description"),
        "tags": deployment.get("tags"),
        "concurrency_limit": limit.get("limit"),
        "collision_strategy": options.get("collision_strategy"),
    }
    for group, there in (("parameters", deployment), ("job_variables", work)):
        values |= {f"{group}.{key}": value for key, value in (there.get(group) or {}).items()}
    return values


def _said(values: Values) -> Values:
    return {key: value for key, value in values.items() if value is not None}


def _fields(values: Values) -> Values:
    """Settings as the fields of a deployment, its schedules aside."""
    strategy = values.get("collision_strategy")
    return {
        "description": values.get("description"),
        "tags": values.get("tags", []),
        "parameters": _below(values, "parameters"),
        "job_variables": _below(values, "job_variables"),
        "concurrency_limit": values.get("concurrency_limit"),
        "concurrency_options": {"collision_strategy": strategy} if strategy else None,
    }


def _schedule(values: Values, slug: str) -> Values:
    """One schedule as the server takes it; with an empty rule if it is not there."""
    found = _below(values, f"schedules.{slug}")
    return {
        "slug": slug,
        "active": found.get("active", True),
        "parameters": found.get("parameters", {}),
        "schedule": {key: found[key] for key in _RULE if key in found},
    }


def _slugs(values: Values) -> set[str]:
    return {key.split(".")[1] for key in values if key.startswith("schedules.")}


def _below(values: Values, prefix: str) -> Values:
    return {
        key.removeprefix(f"{prefix}."): value for key, value in values.items() if key.startswith(f"{prefix}.")
    }


def _adopt_schedule(client: SyncPrefectClient, there: Values, file: Values, *, known: bool) -> None:
    """Give the file's slug to the one schedule that `prefect deploy` made before, so that it is no second."""
    nameless = [each for each in there["schedules"] if not each.get("slug")]
    if known or len(nameless) != 1 or len(_slugs(file)) != 1:
        return
    (slug,) = _slugs(file)
    _send(client, "PATCH", f"/deployments/{there['id']}/schedules/{nameless[0]['id']}", json={"slug": slug})
    nameless[0]["slug"] = slug


def _automate(client: SyncPrefectClient, wanted: Values, *, reset: bool) -> None:
    """Make an automation, or bring the file's change to it unless an operator has changed it."""
    name = wanted["name"]
    found = client.read_automations_by_name(name)
    if not found:
        _send(client, "POST", "/automations/", json=wanted)
        print(f"automation {name}: made")
    else:
        id_, there = found[0].id, _definition(client, name)
        last = _remembered(name) or {}
        if last.get("file") == wanted and not (reset and last.get("server") != there):
            return
        if last.get("server") != there and not reset:
            print(f"automation {name}: stays as it was changed on the server (--reset takes the file's)")
            return
        enabled = there["enabled"] or reset
        _send(client, "PUT", f"/automations/{id_}", json={**wanted, "enabled": enabled})
        print(f"automation {name}: changed{' (reset)' if reset else ''}")
    _remember(name, {"file": wanted, "server": _definition(client, name)})


def _definition(client: SyncPrefectClient, name: str) -> Values:
    """An automation as the server has it, without what is new at every reading."""
    (found,) = client.read_automations_by_name(name)
    whole = found.model_dump(mode="json", exclude={"id", "created", "updated", "owner_resource"})
    whole["trigger"].pop("id", None)
    return whole


def _send(client: SyncPrefectClient, method: HttpMethod, path: str, json: Any = None) -> None:
    client.request(method, cast("Any", path), json=json)  # its routes are typed one by one


def _remembered(name: str) -> Values | None:
    return cast("Values | None", Variable.get(_variable(name)))


def _remember(name: str, values: Values) -> None:
    Variable.set(_variable(name), values, tags=["dcgan-deploy"], overwrite=True)


def _variable(name: str) -> str:
    return f"dcgan_deploy_{name.replace('/', '_').replace('-', '_')}"


if __name__ == "__main__":
    main()
