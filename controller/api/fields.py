"""Field types that several kinds share, with the CEL rules that the API server checks them by.

The rules were held against a real API server. It names the value of a scalar by itself, but of an object only "object", so a rule
over several fields names them by a `messageExpression`. A field's own text costs nothing there; one that renders a CIDR or a number
costs a hundred times what is allowed, since its length is not known beforehand.
"""

from typing import Annotated, Any

from msgspec import Meta

# An IPv6 CIDR in full is 43 characters; CEL needs a bound to estimate its cost.
CIDR_LENGTH = 43
ADDRESS_LENGTH = 39
# What one node may have: an object that says more is refused as a whole, so the operator stops before.
MOST_BLOCKS = 4096
MOST_SESSIONS = 1024
MOST_POOLS = 1024
MOST_CLIENTS = 64
# All addresses of as many of the largest blocks.
MOST_ADDRESSES = MOST_BLOCKS * 4096


def rule(expression: str, message: str, values: str = "") -> dict[str, str]:
    """One `x-kubernetes-validations` entry. `values` is a CEL expression whose text stands before the message."""
    entry = {"rule": expression, "message": message}
    if values:
        quoted = message.replace("'", "\\'")
        entry["messageExpression"] = f"{values} + ': {quoted}'"
    return entry


def cel(*rules: dict[str, str]) -> dict[str, Any]:
    """The schema extension that carries CEL rules."""
    return {"x-kubernetes-validations": list(rules)}


CIDR_RULES = (
    rule("isCIDR(self)", "not an IPv4 or IPv6 CIDR, e.g. 10.244.0.0/16 or fd00:10:244::/56"),
    rule(
        "!isCIDR(self) || cidr(self) == cidr(self).masked()",
        "host bits are set: write the network address, e.g. 10.244.0.0/16",
    ),
    rule("!isCIDR(self) || string(cidr(self)) == self", "not in canonical form: lower case, shortest IPv6 form"),
)
ADDRESS_RULES = (rule("isIP(self)", "not an IPv4 or IPv6 address"),)

Cidr = Annotated[str, Meta(max_length=CIDR_LENGTH, extra_json_schema=cel(*CIDR_RULES))]
IPAddress = Annotated[str, Meta(max_length=ADDRESS_LENGTH, extra_json_schema=cel(*ADDRESS_RULES))]
Name = Annotated[str, Meta(max_length=253, min_length=1)]
# RFC 7607: AS 0 is reserved; RFC 7300: 65535 and 4294967295 are, too.
ASNumber = Annotated[
    int,
    Meta(
        ge=1,
        le=4294967294,
        extra_json_schema={
            "format": "int64",
            **cel(rule("self != 65535", "AS 65535 is reserved (RFC 7300): use another, e.g. 64512 to 65534")),
        },
    ),
]
Port = Annotated[int, Meta(ge=1, le=65535)]
# RFC 4271 section 4.2: a hold time is at least three seconds; zero (no keepalives) is not offered.
HoldTime = Annotated[int, Meta(ge=3, le=3600)]
