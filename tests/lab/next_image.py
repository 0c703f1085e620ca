"""podroute's image of another version: the lab's own with one more layer, which calls itself so. Called by `test_upgrade`."""

import hashlib
import importlib.metadata
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from controller.lab.images import OWN_IMAGE, ensure_own_image
from controller.lab.rootfs import PACKAGES, VERSION

VERSION_OF_NEXT = "0.1.0+next"
METADATA = f"{PACKAGES}/podroute-{VERSION}.dist-info/METADATA"


def write_next(path: Path, tag: str) -> None:
    """An archive that containerd imports (the layout of `docker save`)."""
    text = str(importlib.metadata.distribution("podroute").read_text("METADATA"))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        changed = text.replace(f"Version: {VERSION}\n", f"Version: {VERSION_OF_NEXT}\n", 1)
        _add(archive, METADATA, changed.encode())
    layer = buffer.getvalue()
    with tarfile.open(ensure_own_image(lambda _: None)) as known, tarfile.open(path, "w") as made:
        (manifest,) = json.loads(_content(known, "manifest.json"))
        config: dict[str, Any] = json.loads(_content(known, manifest["Config"]))
        config["rootfs"]["diff_ids"].append(f"sha256:{hashlib.sha256(layer).hexdigest()}")
        config["history"].append({"created_by": "another version"})
        ours = json.dumps(config).encode()
        name = f"{hashlib.sha256(ours).hexdigest()}.json"
        _add(made, name, ours)
        for each in manifest["Layers"]:
            made.addfile(known.getmember(each), known.extractfile(each))
        _add(made, "next.tar", layer)
        image = f"{OWN_IMAGE.rpartition(':')[0]}:{tag}"
        whole = {"Config": name, "RepoTags": [image], "Layers": [*manifest["Layers"], "next.tar"]}
        _add(made, "manifest.json", json.dumps([whole]).encode())


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, name
    return file.read()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))
