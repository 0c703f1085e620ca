"""Installs and builds what tests and labs need, and nothing else: `python -m controller.lab.prepare`, called by the
Makefile.
"""

import sys

from controller.lab.bringup import Wanted, programs_for
from controller.lab.errors import LabError
from controller.lab.packages import ensure_packages
from controller.lab.programs import CONTAINERD_2, FOR_TESTS, ensure_programs


def main() -> int:
    """0 when everything is there; 1 with the reason when it can't be."""
    try:
        ensure_packages(print)
        ensure_programs([*programs_for(Wanted()), *CONTAINERD_2, *FOR_TESTS], print)
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
