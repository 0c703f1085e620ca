"""What operator and agent may do, exactly: the API server's own list of it, and its answer to every verb on every kind of ours.

The tables here say why beside each right; one more or one less in manifests/base/rbac.yaml fails.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from apiserver_world import REPOSITORY, World, wait_for
from test_apiserver_admission import Accounts

pytestmark = [pytest.mark.root]

OURS = "podroute.dev"
KINDS = ("ippools", "ipblocks", "bgpconfigurations", "bgppeers", "nodenetworks", "clusternetworks", "ipreservations")
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
Right = tuple[str, str, str]


def rights(group: str, resources: str, verbs: str) -> set[Right]:
    """Every pair of the words, in one group."""
    return {(group, resource, verb) for resource in resources.split() for verb in verbs.split()}


EVERYWHERE = {
    "podroute-agent": (
        # Its own NodeNetwork and the ClusterNetwork, which say all that it does; admission holds the status to its own node.
        rights(OURS, "clusternetworks", "list watch")
        | rights(OURS, "nodenetworks", "get list watch")
        | rights(OURS, "nodenetworks/status", "update")
    ),
    "podroute-operator": (
        # What it decides from.
        rights("", "nodes namespaces", "list watch")
        | rights("networking.k8s.io", "servicecidrs", "list watch")
        | rights(OURS, "bgpconfigurations bgppeers ipreservations", "get list watch")
        # A finalizer on pools, and what it says of users' objects.
        | rights(OURS, "ippools", "get list watch patch")
        | rights(OURS, "ippools/status bgpconfigurations/status bgppeers/status ipreservations/status", "update patch")
        # What it writes.
        | rights(OURS, "ipblocks nodenetworks", "get list watch create update delete")
        | rights(OURS, "clusternetworks", "get list watch create update")
    ),
}
IN_NAMESPACES = {
    # Passwords of BGP sessions by name: without list and watch nobody learns which there are.
    ("podroute-agent", "podroute-system"): rights("", "secrets", "get"),
    # The Lease that says which operator writes; pods of older versions, and of which version the two DaemonSets are.
    ("podroute-operator", "podroute-system"): (
        rights("coordination.k8s.io", "leases", "get create update")
        | rights("apps", "daemonsets=podroute-agent daemonsets=podroute-speaker", "get")
        | rights("apps", "controllerrevisions", "list")
        | rights("", "pods", "list delete")
    ),
    # Events about Nodes live in default.
    ("podroute-operator", "default"): rights("events.k8s.io", "events", "create patch"),
}


@pytest.fixture(scope="module")
def installed(server: World) -> Iterator[World]:
    server.kubectl("apply", "-k", str(REPOSITORY / "manifests"))
    spec = {"node": {"name": "n0"}}
    server.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n0"}})
    server.apply({"apiVersion": f"{OURS}/v1alpha1", "kind": "NodeNetwork", "metadata": {"name": "n0"}, "spec": spec})
    yield server
    server.kubectl("delete", "nodes,nodenetworks", "--all")


def listed(world: World, account: str, namespace: str) -> set[Right]:
    """The account's rights in the namespace, as the API server lists them (SelfSubjectRulesReview), each beside the only name, if
    there is one, for which it holds.
    """
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    user = f"system:serviceaccount:podroute-system:{account}"
    groups = ("system:serviceaccounts", "system:serviceaccounts:podroute-system", "system:authenticated")
    who = [f"--as={user}", *(f"--as-group={group}" for group in groups)]
    said = world.attempt(*who, "create", "--validate=false", "-o", "json", "-f", "-", text=json.dumps(review))
    assert said.returncode == 0, said.stderr
    status = json.loads(said.stdout)["status"]
    assert not status["incomplete"]
    return {
        (group, f"{resource}{f'={name}' if name else ''}", verb)
        for rule in status["resourceRules"]
        for group in rule.get("apiGroups", ())
        for resource in rule.get("resources", ())
        for name in rule.get("resourceNames") or ("",)
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("namespace", ["podroute-system", "default", "kube-system"])
@pytest.mark.parametrize("account", EVERYWHERE)
def test_an_account_has_the_rights_of_the_table_and_no_others(installed: World, account: str, namespace: str) -> None:
    of_everybody = listed(installed, "default", namespace)
    wanted = EVERYWHERE[account] | IN_NAMESPACES.get((account, namespace), set())
    assert listed(installed, account, namespace) - of_everybody == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_an_agents_token_is_refused_every_verb_that_is_not_in_the_table(installed: World, kind: str) -> None:
    config = Accounts(installed).agent("n0")
    allowed = {verb for _, resource, verb in EVERYWHERE["podroute-agent"] if resource == kind}
    wait_for(lambda: installed.attempt(config, "get", "nodenetwork", "n0").returncode == 0, "the token is known")
    refused = {verb for verb in VERBS if is_forbidden(installed, config, verb, kind)}
    assert refused == set(VERBS) - allowed


def is_forbidden(world: World, config: str, verb: str, kind: str) -> bool:
    """Whether the API server answers a real request with Forbidden; any other answer means that the right is there."""
    path = f"/apis/{OURS}/v1alpha1/{kind}"
    singular = next(
        each["spec"]["names"]["kind"]
        for each in map(
            yaml.safe_load, map(Path.read_text, (REPOSITORY / "manifests" / "crds").glob("podroute.dev_*.yaml"))
        )
        if each["spec"]["names"]["plural"] == kind
    )
    body = json.dumps({"apiVersion": f"{OURS}/v1alpha1", "kind": singular, "metadata": {"name": "n0"}, "spec": {}})
    words = {
        "get": ("get", "--raw", f"{path}/n0"),
        "list": ("get", "--raw", path),
        "watch": ("get", "--raw", f"{path}?watch=1&timeoutSeconds=1"),
        "create": ("create", "--raw", path, "-f", "-"),
        "update": ("replace", "--raw", f"{path}/n0", "-f", "-"),
        # Without a GET before it, as `kubectl patch` would send one.
        "patch": ("apply", "--server-side", "--validate=false", "-f", "-"),
        "delete": ("delete", "--raw", f"{path}/n0"),
        "deletecollection": ("delete", "--raw", path),
    }[verb]
    said = world.attempt(config, *words, text=body if words[-1] == "-" else "")
    # In these words the rights refuse; admission, which is asked after them, has others.
    return f"cannot {verb} resource" in said.stderr
