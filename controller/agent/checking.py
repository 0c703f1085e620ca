"""What ADD had answered against what the pod has now: the part of CHECK that the specification asks for. Pure.

What podroute itself made, `controller.kernel.pods.pod_problems` compares. Called by `controller.agent.attach`.
"""

from collections.abc import Iterator

from controller.cni.previous import Previous
from controller.kernel.pod_state import PodEnd
from controller.kernel.values import is_our_name


def differences(previous: Previous, end: PodEnd | None, interface: str, host_interface: str) -> list[str]:
    """What of the result is not there, in words; `end` is the pod's interface as the kernel has it."""
    if end is None:
        return [f"prevResult.interfaces: the pod has no interface {interface}"]
    return [f"prevResult.{text}" for text in _differences(previous, end, interface, host_interface)]


def _differences(previous: Previous, end: PodEnd, interface: str, host_interface: str) -> Iterator[str]:
    others = [name for name in previous.host_interfaces if is_our_name(name) and name != host_interface]
    if others:
        yield f"interfaces: {', '.join(others)} is not the host end of {interface}, which is {host_interface}"
    if previous.mac and previous.mac != end.mac.hex(":"):
        yield f"interfaces: {interface} has the hardware address {end.mac.hex(':')}, not {previous.mac}"
    if previous.mtu and previous.mtu != end.mtu:
        yield f"interfaces: {interface} has an MTU of {end.mtu}, not {previous.mtu}"
    for address in previous.addresses:
        if end.addresses.get(address.ip) != address.network.prefixlen:
            yield f"ips: {interface} has no address {address}"
    for route in previous.routes:
        gateways = end.routes.get(route.destination, ())
        if not gateways or (route.gateway is not None and route.gateway not in gateways):
            via = f" via {route.gateway}" if route.gateway else ""
            yield f"routes: there is no route to {route.destination}{via} on {interface}"
