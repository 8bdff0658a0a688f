"""One node of three is cut off from the others, on machines of their own: who was connected to it goes to the others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from fleetlog.client import Client, new_task_id
from fleetlog.exits import CliError, Exit
from fleetlog_schemas.spec import TaskSpec
from fleetlog_testing import namespaces
from fleetlog_testing.cluster import TASKS_AT_ONCE, Cluster, load
from fleetlog_testing.fleet import END_S_MAX, LOOK_S, Host
from fleetlog_testing.waiting import until

HOSTS = ("web01", "web02", "web03", "web04", "web05", "web06")


@pytest.mark.skipif(bool(namespaces.missing()), reason=namespaces.missing())
def test_hosts_of_a_node_that_is_cut_off_go_to_the_others_and_nothing_is_acknowledged_there(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster, addresses: dict[str, str]) -> None:
        await cluster.start(*HOSTS)
        with_hosts = {name for name, address in addresses.items() if any(address in reached_by(host) for host in cluster.hosts.values())}
        led = await cluster.leader("EVENTS")
        alone = led if led in with_hosts else min(with_hosts)
        async with load(cluster) as tasks:
            before = len(tasks)
            with cluster.partitioned(alone) as server:
                await until(
                    lambda: not any(addresses[alone] in reached_by(host) for host in cluster.hosts.values()),
                    END_S_MAX, "every host has left the node that is cut off", LOOK_S,
                )
                await until(lambda: len(tasks) > before + TASKS_AT_ONCE, END_S_MAX, "work goes on among the others")
                with pytest.raises(CliError) as refused:
                    Client.over(server.gateway).submit(TaskSpec(payload=cluster.judge.command("true"), target="all"), new_task_id())
                assert refused.value.code is Exit.UNREACHABLE
        await cluster.in_step()
        cluster.verify_projection()

    with namespaces.machines(tmp_path, "a", "b", "c") as machines:
        cluster = Cluster(tmp_path, machines=machines)
        try:
            asyncio.run(scenario(cluster, {machine.name: machine.address for machine in machines}))
        finally:
            cluster.close()


def reached_by(host: Host) -> set[str]:
    """Return the addresses that an agent is connected to."""
    assert host.process is not None
    return {one.raddr.ip for one in psutil.Process(host.process.pid).net_connections() if one.status == "ESTABLISHED"}
