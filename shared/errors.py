"""The error model of every process.

    VPDError                      one sentence for a person: what is wrong, where, and what to do
    ├── SettingsError             the settings cannot be used; nothing was started
    ├── DataError                 a request, task or file is wrong; asking again will not help
    └── InfrastructureError       a service, a disk or a network failed; asking again may help
        ├── ServiceUnavailable    a service did not answer, or answered that it cannot
        ├── QueueUnavailable      Redis did not answer, or refused to store
        └── EngineFailure         the inference engine could not load or run a policy

A bad rollout is data, not a crash: candidate programs that fail are verdicts. An infrastructure failure is a
type, never a reward: nothing that raises `InfrastructureError` may become a training label.
"""


class VPDError(Exception):
    """Base of all errors a person is shown as one sentence, without a traceback."""


class SettingsError(VPDError):
    """The settings cannot be used; the sentence names the field and the fix."""


class DataError(VPDError):
    """Input that is wrong in itself. `field` is the path of the offending value, if there is one."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InfrastructureError(VPDError):
    """Something we depend on failed. Never a reward, never a training label."""


class ServiceUnavailable(InfrastructureError):
    """A service did not answer in time, or answered that it cannot serve."""


class QueueUnavailable(InfrastructureError):
    """Redis did not answer, or refused to store (out of memory, read-only)."""


class EngineFailure(InfrastructureError):
    """The inference engine could not load a policy or run a request."""
