"""Concurrency slots that nobody holds any more, given back.

A slot is held by a lease. If the server loses the lease (its leases were in memory, its disk is another), no
one ever gives the slot back, and later runs wait for it for ever.
"""

from __future__ import annotations

from typing import Any, cast

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowRunFilter
from prefect.client.schemas.objects import StateType

_HOLDING = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def reconcile_slots(client: SyncPrefectClient) -> None:
    """Lower each deployment's count of taken slots to the number of its runs that may hold one."""
    for deployment in client.read_deployments():
        limit = deployment.global_concurrency_limit
        if limit is None or not limit.active_slots:
            continue
        holding = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": _HOLDING}}}),
            limit=200,
        )
        if len(holding) < limit.active_slots:
            path = cast("Any", f"/v2/concurrency_limits/{limit.id}")  # its routes are typed one by one
            client.request("PATCH", path, json={"active_slots": len(holding)})
            print(f"{deployment.name}: {limit.active_slots - len(holding)} lost slots given back")
