"""The routers of a lab as machines: the spine and every ToR. Pure; `bringup` starts them and `Lab.vtysh`, `Lab.birdc`
ask them.
"""

from controller.lab.bird import spine_configuration, tor_configuration
from controller.lab.frr import bgpd_configuration, zebra_configuration
from controller.lab.machine import MachineSpec, ProcessSpec
from controller.lab.topology import Topology

FRR_PROGRAMS = "/usr/lib/frr"
BIRD_FILE = "/etc/bird/bird.conf"


def router_machine(topology: Topology, router: str) -> MachineSpec:
    """The machine of `spine` or of a ToR."""
    if router == "spine":
        return _bird(router, spine_configuration(topology))
    if topology.tor_kind(router) == "bird":
        return _bird(router, tor_configuration(topology, router))
    return _frr(topology, router)


def is_bird(topology: Topology, router: str) -> bool:
    """Whether a router is asked with birdc; otherwise with vtysh."""
    return router == "spine" or topology.tor_kind(router) == "bird"


def _bird(router: str, text: str) -> MachineSpec:
    # Debian's own service makes the folder of birdc's socket.
    process = ProcessSpec(
        name="bird", argv=("sh", "-c", f"mkdir -p /run/bird && exec /usr/sbin/bird -f -c {BIRD_FILE}")
    )
    return MachineSpec(hostname=router, files={BIRD_FILE: text}, processes=(process,), memory="256m")


def _frr(topology: Topology, tor: str) -> MachineSpec:
    """bgpd and zebra without watchfrr: a test that kills one must see it stay dead until the lab starts it again."""
    files = {
        "/etc/frr/zebra.conf": zebra_configuration(tor),
        "/etc/frr/bgpd.conf": bgpd_configuration(topology, tor),
        "/etc/frr/vtysh.conf": "no service integrated-vtysh-config\n",
    }
    # The daemons run as frr and make their sockets in /run/frr, which Debian's start script would have made for them.
    # bgpd waits for the socket: one that a killed zebra left says nothing.
    begin = "install -d -o frr -g frr /run/frr && rm -f /run/frr/zserv.api"
    zebra = ProcessSpec(
        name="zebra",
        argv=("sh", "-c", f"{begin} && exec {FRR_PROGRAMS}/zebra -A 127.0.0.1 -f /etc/frr/zebra.conf"),
    )
    bgpd = ProcessSpec(
        name="bgpd",
        argv=(f"{FRR_PROGRAMS}/bgpd", "-A", "127.0.0.1", "-f", "/etc/frr/bgpd.conf"),
        wait_for="/run/frr/zserv.api",
    )
    return MachineSpec(hostname=tor, files=files, processes=(zebra, bgpd), memory="256m")
