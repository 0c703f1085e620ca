"""The result of ADD as CHECK gets it back (`controller.cni.previous`)."""

import ipaddress
from typing import Any

import pytest

from controller.cni.previous import Previous, PreviousRoute, previous_of
from controller.cni.result import CniError, ErrorCode

POD = {"name": "eth0", "mac": "06:AA:00:00:00:01", "sandbox": "/run/netns/x", "mtu": 1400}
HOST = {"name": "podr0123456789a", "mac": "02:aa:00:00:00:01"}
RESULT: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "interfaces": [HOST, POD],
    "ips": [{"address": "10.1.0.1/32", "interface": 1}, {"address": "fd00:1::1/128", "interface": 1}],
    "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "10.9.0.0/16"}],
}


def test_what_concerns_the_pods_interface_is_kept() -> None:
    assert previous_of(RESULT, "eth0") == Previous(
        mac="06:aa:00:00:00:01",
        mtu=1400,
        host_interfaces=("podr0123456789a",),
        addresses=(ipaddress.ip_interface("10.1.0.1/32"), ipaddress.ip_interface("fd00:1::1/128")),
        routes=(
            PreviousRoute(ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_address("169.254.1.1")),
            PreviousRoute(ipaddress.ip_network("10.9.0.0/16"), None),
        ),
    )


def test_what_other_plugins_added_is_not_asked_of_the_pod() -> None:
    more = {**RESULT, "interfaces": [HOST, POD, {"name": "bwp0"}, {"name": "net1", "sandbox": "/run/netns/x"}]}
    more["ips"] = [*RESULT["ips"], {"address": "192.0.2.1/24", "interface": 3}]
    found = previous_of(more, "eth0")
    assert len(found.addresses) == 2
    assert found.host_interfaces == ("podr0123456789a", "bwp0")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interfaces": None}, "prevResult.interfaces = [] lacks eth0"),
        ({"interfaces": [HOST, {**POD, "name": "eth1"}]}, "lacks eth0 in a sandbox"),
        ({"interfaces": [{**POD, "mac": 7}]}, "prevResult.interfaces[0]"),
        ({"interfaces": "eth0"}, "prevResult.interfaces = eth0 is no list of objects"),
        ({"ips": [{"interface": 1}]}, "prevResult.ips[0].address = None is no address"),
        ({"ips": [{"address": "10.1.0.1/99"}]}, "prevResult.ips[0].address = 10.1.0.1/99"),
        ({"routes": [{"dst": "everywhere"}]}, "prevResult.routes[0]"),
        ({"routes": [{"dst": "::/0", "gw": "fe80::x"}]}, "prevResult.routes[0]"),
        ({"routes": [3]}, "prevResult.routes = [3] is no list of objects"),
    ],
)
def test_a_result_that_says_nothing_or_nonsense_is_refused_by_its_field(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CniError) as error:
        previous_of({**RESULT, **changes}, "eth0")
    assert error.value.code is ErrorCode.INVALID_CONFIGURATION
    assert words in error.value.message
    assert "result of ADD" in error.value.remedy
