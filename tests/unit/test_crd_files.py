"""The CRD files are what the kinds say."""

from pathlib import Path

import pytest
import yaml

from controller.api import KINDS
from controller.api.crd import custom_resource_definition, rendered
from controller.api.objects import GROUP, Resource

MANIFESTS = Path(__file__).parents[2] / "manifests"


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_of_each_kind_is_current(kind: type[Resource]) -> None:
    path = MANIFESTS / "crds" / f"{GROUP}_{kind.PLURAL}.yaml"
    assert path.read_text() == rendered(kind), "run: python -m controller.api.crd manifests/crds"


def test_the_kustomization_lists_every_file_of_crds() -> None:
    listed = yaml.safe_load((MANIFESTS / "crds" / "kustomization.yaml").read_text())["resources"]
    assert set(listed) == {path.name for path in (MANIFESTS / "crds").glob("podroute.dev_*.yaml")}
    assert set(listed) == {f"{GROUP}_{kind.PLURAL}.yaml" for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_a_description_that_kubectl_explain_shows(kind: type[Resource]) -> None:
    schema = custom_resource_definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    bare = [path for part in ("spec", "status") for path in undescribed(schema["properties"].get(part, {}), part)]
    assert bare == []


def undescribed(schema: dict[str, object], path: str) -> list[str]:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        items = schema.get("items")
        return undescribed(items, f"{path}[]") if isinstance(items, dict) else []
    found = [f"{path}.{name}" for name, value in properties.items() if not value.get("description")]
    return found + [each for name, value in properties.items() for each in undescribed(value, f"{path}.{name}")]
