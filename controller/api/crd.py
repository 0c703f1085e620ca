"""Generates `manifests/crds/*.yaml` from the kinds: `python -m controller.api.crd manifests/crds`.

The schema is structural (Kubernetes: CustomResourceDefinitions, "Specifying a structural schema"): no references, every type
written out. A test holds the files against this generator, and the API server accepts them.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import inspect

from controller.api import KINDS
from controller.api.objects import GROUP, VERSION, Resource

Schema = dict[str, Any]

_METADATA = {"metadata", "apiVersion", "kind"}


def schema_of(declared: inspect.Type) -> Schema:
    """The OpenAPI v3 schema of a type, with the descriptions and CEL rules that its `Meta` carries."""
    if isinstance(declared, inspect.Metadata):
        return _merged(schema_of(declared.type), dict(declared.extra_json_schema or {}))
    if isinstance(declared, inspect.UnionType):
        (present,) = (t for t in declared.types if not isinstance(t, inspect.NoneType))
        return schema_of(present)
    if isinstance(declared, inspect.StructType):
        return _struct_schema(declared)
    return _plain_schema(declared)


def _merged(schema: Schema, extra: Schema) -> Schema:
    """`extra` over `schema`; CEL rules of both are kept. `Meta` puts descriptions there, too."""
    rules = [*schema.get("x-kubernetes-validations", ()), *extra.get("x-kubernetes-validations", ())]
    merged = {**schema, **extra}
    if rules:
        merged["x-kubernetes-validations"] = rules
    return merged


def _plain_schema(declared: inspect.Type) -> Schema:
    match declared:
        case inspect.StrType():
            bounds = {"maxLength": declared.max_length, "minLength": declared.min_length, "pattern": declared.pattern}
            return {"type": "string", **_present(bounds)}
        case inspect.IntType():
            return {"type": "integer", **_present({"minimum": declared.ge, "maximum": declared.le})}
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.LiteralType():
            return {"type": "string", "enum": list(declared.values)}
        case inspect.VarTupleType():
            bounds = {"maxItems": declared.max_length, "minItems": declared.min_length}
            return {"type": "array", "items": schema_of(declared.item_type), **_present(bounds)}
        case inspect.DictType():
            bounds = {"maxProperties": declared.max_length}
            return {"type": "object", "additionalProperties": schema_of(declared.value_type), **_present(bounds)}
    raise TypeError(f"{declared!r} has no place in a CRD")


def _present(bounds: dict[str, Any]) -> Schema:
    return {key: value for key, value in bounds.items() if value is not None}


def _struct_schema(declared: inspect.StructType) -> Schema:
    properties: Schema = {}
    required = []
    for field in declared.fields:
        schema = schema_of(field.type)
        if field.default not in (msgspec.NODEFAULT, None):
            schema["default"] = msgspec.to_builtins(field.default)
            # An empty text or list says no more than an absent one, and "" would break a format such as date-time.
            if schema["default"] in ((), [], {}, "") and schema.get("type") != "object":
                del schema["default"]
        if field.required:
            required.append(field.encode_name)
        properties[field.encode_name] = schema
    rules = getattr(declared.cls, "RULES", ())
    schema = {"type": "object", "description": _first_paragraph(declared.cls), "properties": properties}
    if required:
        schema["required"] = required
    return _merged(schema, {"x-kubernetes-validations": list(rules)} if rules else {})


def _first_paragraph(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def custom_resource_definition(kind: type[Resource]) -> Schema:
    """The CRD of one kind, as an object for `yaml.safe_dump`."""
    (declared,) = inspect.multi_type_info([kind])
    if not isinstance(declared, inspect.StructType):
        raise TypeError(f"{kind!r} is no struct")
    body = _struct_schema(declared)
    properties = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        **{name: schema for name, schema in body["properties"].items() if name not in _METADATA},
    }
    if "status" in properties:
        properties["status"].pop("default", None)
    if kind.BY_PODROUTE_ALONE:
        properties = _without_rules(properties)
    schema = {**body, "properties": properties}
    schema["required"] = [name for name in body.get("required", ()) if name not in _METADATA] or None
    if "spec" in properties and "default" in properties["spec"]:
        properties["spec"]["default"] = {}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": kind.__name__,
                "listKind": f"{kind.__name__}List",
                "plural": kind.PLURAL,
                "singular": kind.__name__.lower(),
                "categories": ["podroute"],
                **({"shortNames": list(kind.SHORT_NAMES)} if kind.SHORT_NAMES else {}),
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {k: v for k, v in schema.items() if v is not None}},
                    **({"subresources": {"status": {}}} if "status" in properties else {}),
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind_, "jsonPath": path, **({"priority": 1} if priority else {})}
                        for name, kind_, path, priority in kind.COLUMNS
                    ],
                }
            ],
        },
    }


def _without_rules(schema: Any) -> Any:
    """The schema without CEL rules: what they check was checked in the objects that it follows from, and costs too much again."""
    if isinstance(schema, dict):
        return {key: _without_rules(value) for key, value in schema.items() if key != "x-kubernetes-validations"}
    return [_without_rules(value) for value in schema] if isinstance(schema, list) else schema


def rendered(kind: type[Resource]) -> str:
    """The CRD of one kind as the text of its file."""
    head = "# Generated by `python -m controller.api.crd manifests/crds`: change controller/api instead.\n"
    return head + yaml.safe_dump(custom_resource_definition(kind), sort_keys=False, width=120, allow_unicode=True)


def main() -> None:
    """Writes every kind's CRD into the folder that the command line names."""
    folder = Path(sys.argv[1])
    for kind in KINDS:
        (folder / f"{GROUP}_{kind.PLURAL}.yaml").write_text(rendered(kind))


if __name__ == "__main__":
    main()
