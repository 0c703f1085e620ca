"""Which tests run in one process, one after the other: those of one lab, otherwise those of one file. For conftest and xdist."""

from pathlib import PurePath

from xdist.scheduler import LoadScopeScheduling

# What the shared lab is left with ends meanwhile: last there.
LEAVING_IT_BUSY = "test_bad_input_nodes"
# Labs of their own, in the order in which they are run; several files may have one together.
OWN_LABS = (
    ("lab itself", ("test_lab_itself",)),
    ("routers", ("test_lab_routers",)),
    ("mesh", ("test_node_mesh",)),
    ("containerd 2", ("test_containerd_2", "test_outlived")),
    ("moving", ("test_moving",)),
    # The last one is the end of podroute there: it comes back without its demo.
    (
        "installed",
        ("test_installed", "test_metrics", "test_upgrade", "test_lab_commands", "test_drained", "test_uninstall"),
    ),
)
STEMS = [stem for _, stems in OWN_LABS for stem in stems]
LABS = {stem: name for name, stems in OWN_LABS for stem in stems}
SHARED = "shared lab"


def group_of(path: PurePath) -> str:
    """The lab that a test file uses, or the file itself."""
    stands_alone = path.parent.name != "lab" or path.stem.startswith("test_apiserver_")
    return path.stem if stands_alone else LABS.get(path.stem, SHARED)


def place_of(path: PurePath) -> tuple[int, int]:
    """The shared lab first, since it takes longest; then whatever has no lab; then labs of their own."""
    group = group_of(path)
    if group == SHARED:
        return 0, path.stem == LEAVING_IT_BUSY
    return (2, STEMS.index(path.stem)) if path.stem in LABS else (1, 0)


class ALabAtATime(LoadScopeScheduling):
    """Gives each process one lab at a time, with all its tests."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(PurePath(nodeid.partition("::")[0]))
