"""The manifests against a real API server: who may write what, with tokens as operator and agents have them."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from apiserver_world import REPOSITORY, World, wait_for
from echo_agents import EchoAgents
from test_apiserver_operator import POOL4, OperatorProcess, add_nodes, condition, node, settled

pytestmark = [pytest.mark.root]

BLOCK = {
    "apiVersion": "podroute.dev/v1alpha1",
    "kind": "IPBlock",
    "metadata": {"name": "10-244-0-0-26"},
    "spec": {"cidr": "10.244.0.0/26", "pool": "v4", "node": {"name": "n0"}},
}
STATUS = {"status": {"epoch": "7"}}


class Accounts:
    """kubectl with the token of an account."""

    def __init__(self, world: World) -> None:
        self.world = world

    def config(self, account: str, *bound: str) -> str:
        token = self.world.kubectl("create", "token", account, "-n", "podroute-system", *bound).strip()
        path = self.world.folder / f"{account}-{'-'.join(bound)}.kubeconfig"
        path.write_text(self.world.kubeconfig_for(token))
        return f"--kubeconfig={path}"

    def agent(self, node: str) -> str:
        return self.config("podroute-agent", "--bound-object-kind=Node", f"--bound-object-name={node}")


@pytest.fixture(scope="module")
def installed(server: World) -> World:
    server.kubectl("apply", "-k", str(REPOSITORY / "manifests"))
    return server


@pytest.fixture
def accounts(installed: World) -> Iterator[Accounts]:
    for name in ("n0", "n1"):
        installed.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        spec = {"node": {"name": name}}
        installed.apply(
            {"apiVersion": "podroute.dev/v1alpha1", "kind": "NodeNetwork", "metadata": {"name": name}, "spec": spec}
        )
    accounts = Accounts(installed)
    # A policy is enforced a moment after it was created.
    unbound = accounts.config("podroute-agent")
    wait_for(lambda: "is bound to its pod" in _denied(accounts, unbound, "n0"), "the policy on agents is enforced")
    yield accounts
    installed.kubectl("delete", "nodes,nodenetworks", "--all")


def _denied(accounts: Accounts, config: str, node: str) -> str:
    return _write(accounts.world, config, node, STATUS, "--subresource=status").stderr


def _write(
    world: World, config: str, node: str, part: dict[str, Any], *options: str
) -> subprocess.CompletedProcess[str]:
    """Writes a NodeNetwork as the agent does: the whole object, in the version that is there."""
    text = json.dumps({**world.get("nodenetwork", node), **part})
    return world.attempt(config, "replace", *options, "-f", "-", text=text)


def test_the_manifests_apply_twice_and_the_second_time_change_nothing(installed: World) -> None:
    said = installed.kubectl("apply", "-k", str(REPOSITORY / "manifests"))
    assert said.splitlines()
    assert all(line.endswith("unchanged") for line in said.splitlines()), said


def test_an_agent_writes_the_status_of_its_own_node_and_nothing_else(accounts: Accounts) -> None:
    own = accounts.agent("n0")
    written = _write(accounts.world, own, "n0", STATUS, "--subresource=status")
    assert written.returncode == 0, written.stderr
    assert accounts.world.get("nodenetwork", "n0")["status"]["epoch"] == "7"
    refused = _write(accounts.world, own, "n1", STATUS, "--subresource=status")
    assert refused.returncode != 0
    assert "the NodeNetwork of its own node only" in refused.stderr
    other = _write(accounts.world, own, "n0", {"spec": {"node": {"name": "n0"}, "epoch": "8"}})
    assert other.returncode != 0
    assert "forbidden" in other.stderr.lower()
    assert "forbidden" in accounts.world.refused(own, "delete", "nodenetwork", "n0").lower()


def test_a_policy_holds_an_agent_even_under_a_role_that_allows_everything(accounts: Accounts) -> None:
    own = accounts.agent("n0")
    accounts.world.kubectl(
        "create",
        "clusterrolebinding",
        "opr-all",
        "--clusterrole=cluster-admin",
        "--serviceaccount=podroute-system:podroute-agent",
    )
    try:
        spec = json.dumps({"spec": {"epoch": "8"}})
        said = accounts.world.refused(own, "patch", "nodenetwork", "n0", "--type=merge", "-p", spec)
        assert "nothing but the status of its own NodeNetwork" in said
        assert accounts.world.get("nodenetwork", "n0")["spec"].get("epoch", "") == ""
    finally:
        accounts.world.kubectl("delete", "clusterrolebinding", "opr-all")


def test_an_agent_reads_secrets_of_podroute_s_namespace_only(accounts: Accounts) -> None:
    own = accounts.agent("n0")
    for namespace in ("podroute-system", "default"):
        accounts.world.kubectl("create", "secret", "generic", "tor", "--from-literal=password=x", "-n", namespace)
    accounts.world.kubectl(own, "get", "secret", "tor", "-n", "podroute-system")
    assert "forbidden" in accounts.world.refused(own, "get", "secret", "tor", "-n", "default").lower()
    for namespace in ("podroute-system", "default"):
        accounts.world.kubectl("delete", "secret", "tor", "-n", namespace)


def test_nobody_but_the_operator_writes_a_block(accounts: Accounts) -> None:
    operator = accounts.config("podroute-operator")
    text = yaml.safe_dump(BLOCK)
    wait_for(
        lambda: (
            "only podroute's operator writes IPBlocks"
            in accounts.world.attempt("create", "--dry-run=server", "-f", "-", text=text).stderr
        ),
        "the policy on blocks is enforced",
    )
    accounts.world.kubectl(operator, "create", "-f", "-", text=text)
    said = accounts.world.refused("delete", "ipblock", "10-244-0-0-26")
    assert "only podroute's operator writes IPBlocks" in said
    assert "delete the Node, or delete the IPPool" in said
    # `replace` is an update; the operator has no right to patch.
    releasing = yaml.safe_dump({**BLOCK, "spec": {**BLOCK["spec"], "state": "Releasing"}})
    said = accounts.world.attempt("replace", "-f", "-", text=releasing).stderr
    assert "only podroute's operator writes IPBlocks" in said
    accounts.world.kubectl(operator, "replace", "-f", "-", text=releasing)
    accounts.world.kubectl(operator, "delete", "ipblock", "10-244-0-0-26")


def test_the_operator_s_account_may_do_all_that_the_operator_does(accounts: Accounts) -> None:
    world = accounts.world
    add_nodes(world, node("n0", 11), node("n1", 12))
    others = {
        "bgppeers": ("BGPPeer", {"address": "10.10.0.1", "asNumber": 65001}),
        "ipreservations": ("IPReservation", {"cidrs": ["10.244.0.0/30"]}),
    }
    with EchoAgents(str(world.kubeconfig)):
        operator = OperatorProcess(
            world, "account", accounts.config("podroute-operator"), "--namespace=podroute-system"
        )
        try:
            world.apply(POOL4)
            for kind, spec in others.values():
                world.apply({**POOL4, "kind": kind, "metadata": {"name": "other"}, "spec": spec})
            wait_for(lambda: settled(world, ("n0", "n1"), 2), "blocks on both nodes", 30)
            for plural in others:
                wait_for(lambda plural=plural: condition(world, plural, "other", "Accepted"), f"a verdict on {plural}")
            world.kubectl("delete", "ippool", "v4", "--wait=false")
            wait_for(lambda: not world.items("ippools"), "the pool is let go after its last block", 40)
            assert not world.items("ipblocks")
            assert operator.stop() == 0
            (lease,) = world.items("leases", "-n", "podroute-system")
            assert not lease["spec"].get("holderIdentity"), "given up"
        finally:
            operator.kill()
            print(operator.log.read_text()[-3000:])
            world.kubectl("delete", "bgppeers,ipreservations", "--all")
    assert "forbidden" not in operator.log.read_text().lower()


@pytest.mark.parametrize("example", sorted(p.name for p in (REPOSITORY / "examples").iterdir() if p.is_dir()))
def test_every_example_applies(installed: World, example: str) -> None:
    folder = REPOSITORY / "examples" / example
    installed.kubectl("apply", "-f", str(folder))
    names = [
        each["metadata"]["name"]
        for path in Path(folder).glob("*.yaml")
        for each in yaml.safe_load_all(path.read_text())
    ]
    assert names
    installed.kubectl("delete", "-f", str(folder))
