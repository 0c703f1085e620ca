"""What all kinds share: metadata, conditions, label selectors, and reading and writing objects as JSON.

Used by the kinds beside this module and by everything that handles an object.
"""

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

GROUP = "podroute.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class OwnerReference(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Kubernetes' metav1.OwnerReference."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


class Metadata(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The part of Kubernetes' ObjectMeta that podroute reads."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[OwnerReference, ...] = ()

    @property
    def age_key(self) -> tuple[str, str]:
        """Sorts older objects first: creationTimestamp, then UID."""
        return (self.creation_timestamp or "9999", self.uid)


class Condition(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Kubernetes' metav1.Condition."""

    type: Annotated[str, Meta(description="What the condition is about.", max_length=63)]
    status: Annotated[Literal["True", "False", "Unknown"], Meta(description="Whether it holds.")]
    reason: Annotated[str, Meta(description="One word from podroute's table of reasons.", max_length=63)]
    message: Annotated[str, Meta(description="The object, field, value and remedy.", max_length=2048)] = ""
    last_transition_time: Annotated[
        str, Meta(description="When the status last changed.", extra_json_schema={"format": "date-time"})
    ] = ""
    observed_generation: Annotated[int, Meta(description="The generation that was judged.")] = 0


Conditions = Annotated[
    tuple[Condition, ...],
    Meta(
        description="What podroute made of the object, each with a reason.",
        extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


def with_condition(conditions: tuple[Condition, ...], new: Condition) -> tuple[Condition, ...]:
    """`conditions` with `new` in place of the one of its type; the transition time is kept if the status did not change."""
    old = next((c for c in conditions if c.type == new.type), None)
    if old is not None and old.status == new.status:
        new = msgspec.structs.replace(new, last_transition_time=old.last_transition_time)
    return (*(c for c in conditions if c.type != new.type), new)


class SelectorRequirement(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One expression of a label selector."""

    key: Annotated[str, Meta(description="The label's key.", max_length=317)]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"], Meta(description="How the label's value is compared.")
    ]
    values: Annotated[
        tuple[Annotated[str, Meta(max_length=63)], ...],
        Meta(description="For In and NotIn.", max_length=64),
    ] = ()


class LabelSelector(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Kubernetes' metav1.LabelSelector; an empty one selects everything."""

    match_labels: Annotated[
        dict[str, str], Meta(description="Labels that must all be there with these values.", max_length=64)
    ] = {}
    match_expressions: Annotated[
        tuple[SelectorRequirement, ...], Meta(description="Expressions that must all hold.", max_length=32)
    ] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected (Kubernetes: Labels and Selectors)."""
        return all(labels.get(k) == v for k, v in self.match_labels.items()) and all(
            _holds(requirement, labels) for requirement in self.match_expressions
        )


def _holds(requirement: SelectorRequirement, labels: Mapping[str, str]) -> bool:
    present = requirement.key in labels
    match requirement.operator:
        case "Exists":
            return present
        case "DoesNotExist":
            return not present
        case "In":
            return present and labels[requirement.key] in requirement.values
        case "NotIn":
            return not present or labels[requirement.key] not in requirement.values


class Resource(Struct, frozen=True, kw_only=True, rename="camel"):
    """An object of one of our kinds; each kind adds `spec` and, most of them, `status`."""

    PLURAL: ClassVar[str]
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ()
    # (name, type, JSON path, priority): what `kubectl get` shows.
    COLUMNS: ClassVar[tuple[tuple[str, str, str, int], ...]] = ()
    # Written by operator and agents only: the API server checks its shape and no more.
    BY_PODROUTE_ALONE: ClassVar[bool] = False
    # CEL rules on the whole object.
    RULES: ClassVar[tuple[dict[str, str], ...]] = ()

    metadata: Metadata
    api_version: str = API_VERSION
    kind: str = ""

    def problem(self) -> tuple[str, str] | None:
        """Field and message if a value can't be worked with. The CRD's rules refuse such objects; older rules may not have."""
        return None


class Invalid(Struct, frozen=True):
    """An object that does not decode: which one, where in it, and why; and of which generation of it that is said."""

    kind: str
    name: str
    field: str
    message: str
    uid: str = ""
    generation: int = 0


R = TypeVar("R", bound=Resource)


def decode(kind: type[R], raw: Mapping[str, Any]) -> R | Invalid:
    """The typed object in `raw`, or what is wrong with it: a broken object never raises."""
    try:
        converted = msgspec.convert(raw, kind)
        problem = converted.problem()
        return converted if problem is None else _invalid(kind, raw, *problem)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        return _invalid(kind, raw, path.rstrip("`"), message)


def _invalid(kind: type[Resource], raw: Mapping[str, Any], field: str, message: str) -> Invalid:
    metadata = raw.get("metadata") or {}
    generation = metadata.get("generation", 0)
    return Invalid(
        kind.__name__,
        str(metadata.get("name", "")),
        field,
        message,
        uid=str(metadata.get("uid", "")),
        generation=generation if isinstance(generation, int) else 0,
    )


def encode(value: Struct) -> dict[str, Any]:
    """`value` as JSON-ready builtins, with `kind` filled in for an object."""
    raw: dict[str, Any] = msgspec.to_builtins(value)
    if isinstance(value, Resource):
        raw["kind"] = type(value).__name__
    return raw


def first_problem(field: str, values: Iterable[str], parse: Callable[[str], object]) -> tuple[str, str] | None:
    """The first of `values` that `parse` refuses with ValueError, as `Resource.problem` gives it."""
    for value in values:
        try:
            parse(value)
        except ValueError as error:
            return field, str(error)
    return None


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Family = Literal["ipv4", "ipv6"]


def family_of(value: str) -> Family:
    """The family of an address or CIDR."""
    return "ipv6" if ":" in value else "ipv4"
