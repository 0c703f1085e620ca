"""What can go wrong with the API server, as one tree; `controller.kube.client` maps everything foreign to it, once.

    KubeError
    ├── NotConfigured      no kubeconfig and no service account, or one that does not parse
    ├── Unavailable        no answer, or none that can be used (timeouts, broken connections)
    │   └── Troubled       an answer that says not now, or that the server failed at this request (408, 429, 5xx)
    └── Refused            the server said no
        ├── Unauthorized   401: the token is not (or no longer) valid
        ├── Forbidden      403: RBAC or an admission policy
        ├── NotFound       404: no such object, or no such kind
        ├── Conflict       409: another resourceVersion or UID than the precondition's
        │   └── AlreadyExists
        ├── Expired        410: a watch's resourceVersion is too old; list again
        └── Rejected       400, 422: the object does not validate

Every error's text names what was asked for and, where there is one, the remedy. Callers catch the branch that they can act on.
"""


class KubeError(Exception):
    """Anything that the API server, or the way to it, can answer with."""

    remedy = ""

    def __init__(self, asked: str, said: str) -> None:
        super().__init__(f"{asked}: {said}" + (f" ({self.remedy})" if self.remedy else ""))
        self.asked = asked
        self.said = said


class NotConfigured(KubeError):
    """There is no way to the API server: neither kubeconfig nor service account, or a broken one."""

    remedy = "give --kubeconfig, set KUBECONFIG, or run in a pod with a service account"


class Unavailable(KubeError):
    """The server does not answer, or not now. Trying again is right; `retry_after` are the seconds that it asked for."""

    def __init__(self, asked: str, said: str, retry_after: float = 0.0) -> None:
        super().__init__(asked, said)
        self.retry_after = retry_after


class Troubled(Unavailable):
    """The server is there, but failed at this one request, or wants it later: others may well go through."""


class Refused(KubeError):
    """The server answered no. Trying the same again does not help."""


class Unauthorized(Refused):
    """401."""

    remedy = "the token is not valid: check the kubeconfig's user, or the service account"


class Forbidden(Refused):
    """403."""

    remedy = "see manifests/base/rbac.yaml and manifests/base/admission.yaml"


class NotFound(Refused):
    """404."""


class Conflict(Refused):
    """409: the object is not the one, or no longer the version, that the precondition names."""


class AlreadyExists(Conflict):
    """409 to a create."""


class Expired(Refused):
    """410: too old a resourceVersion."""


class Rejected(Refused):
    """400 or 422: the object does not validate; the text is the server's own and names the field."""
