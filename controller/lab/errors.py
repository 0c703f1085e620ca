"""What can keep a lab from doing what was asked, each with its reason.

LabError            a sentence for the person who asked, and the reason as a member of Refusal
  └─ WaitExpired    a condition that did not come true before its deadline; says what was missing
"""

from enum import Enum


class Refusal(Enum):
    """Why a lab was not started, found or changed."""

    BAD_TOPOLOGY = "BadTopology"
    BUILD_FAILED = "BuildFailed"
    COMMAND_FAILED = "CommandFailed"
    DEADLINE = "Deadline"
    HOST_LIMIT = "HostLimit"
    NAME_TAKEN = "NameTaken"
    NO_CGROUP = "NoCgroup"
    NOT_FOUND = "NotFound"
    NO_GO = "NoGo"
    NO_PACKAGE = "NoPackage"
    NO_ROOT = "NoRoot"
    PROCESS_ENDED = "ProcessEnded"


class LabError(Exception):
    """A lab operation that could not be done; `reason` is for programs, the text for people."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class WaitExpired(LabError):
    """A condition was not met in time."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(Refusal.DEADLINE, f"{what} (waited {seconds:.0f} s)")
