"""Records what this version keeps: objects as an API server stores them, and a node's files and aliases.

    podroute lab up --name kept --processes
    PYTHONPATH=tests/lab:tests python tests/golden/record_stored.py kept 0.1.0
    podroute lab down --name kept

Run once for each release, as root: `test_stored_versions` then reads it for ever. Writes tests/golden/stored/VERSION.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

from cni_calls import Container
from refused_inputs import body
from workloads import apply, eventually, pods_on

from controller.api import KINDS
from controller.lab.cluster import Lab

FOLDER = Path(__file__).with_name("stored")
RUN = "/run/podroute"
FILES = {
    "snapshot": f"{RUN}/agent/snapshot.json",
    "used": f"{RUN}/agent/used",
    "resting": f"{RUN}/agent/resting",
    "desired": f"{RUN}/speaker/desired.json",
}
SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "recorded", "namespace": "podroute-system"},
    "type": "Opaque",
    "stringData": {"password": "recorded"},
}
MORE = (
    body("BGPConfiguration", "default", gracePeriods={"deletedNode": 1200, "idleBlock": 600}),
    body("IPReservation", "recorded", cidrs=["10.244.255.0/28", "fd00:10:244::ff00/120"]),
    body("IPPool", "recorded", cidr="10.245.99.0/24", blockSize=28, headroom=2, natOutgoing=True),
    body(
        "BGPPeer",
        "recorded",
        address="10.10.0.250",
        asNumber=65099,
        passwordSecretRef={"name": "recorded"},
        nodeSelector={"matchLabels": {"kubernetes.io/hostname": "n0"}},
    ),
)


def plain(raw: dict[str, Any]) -> dict[str, Any]:
    """Without what kubectl and the server note of the writers."""
    raw["metadata"].pop("managedFields", None)
    raw["metadata"].get("annotations", {}).pop("kubectl.kubernetes.io/last-applied-configuration", None)
    return raw


def record(lab: Lab) -> dict[str, Any]:
    """What lab's API server and its node n0 keep, while there is some of everything."""
    apply(lab, SECRET, *MORE)
    node = lab.node("n0")
    with pods_on(lab, ["n0"], "recorded") as (pod,), Container(lab, "n0", "rests") as gone:
        assert gone.call("ADD").exit_code == 0
        gone.call("DEL")
        eventually(lambda: "recorded" in node.run(["cat", FILES["snapshot"]]), 60, "n0 knows its peer's password")
        eventually(lambda: node.run(["cat", FILES["resting"]]).strip(), 10, "an address rests")
        eventually(lambda: "recorded" in node.run(["cat", FILES["desired"]]), 20, "the speaker is told")
        links = json.loads(lab.netns_exec("n0", ["ip", "-j", "link", "show", "type", "veth"]))
        aliases = [link["ifalias"] for link in links if link["ifname"].startswith("podr")]
        return {
            "objects": [plain(raw) for kind in KINDS for raw in lab.get(kind.PLURAL)["items"]],
            "files": {name: node.run(["cat", path]) for name, path in FILES.items()},
            "aliases": aliases,
            "pod": {"uid": pod.uid, "addresses": list(pod.addresses)},
        }


if __name__ == "__main__":
    name, version = sys.argv[1:]
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps(record(Lab.find(name)), indent=1, ensure_ascii=False)
    (FOLDER / f"{version}.json").write_text(text + "\n")
