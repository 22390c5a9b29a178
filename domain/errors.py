"""What can go wrong, in the platform's own words.

Every error is one full sentence: what, with which value, what was expected. Edges map them once:
`api/errors.py` to RFC 9457 problems, doors to their protocol's refusal, `cluster/cli.py` to an exit code.
"""

from __future__ import annotations


class VitalgridError(Exception):
    """Base of every error the platform raises on purpose. `code` is stable and machine-readable."""

    code = "error"


class InvalidInput(VitalgridError):
    """The input cannot be accepted as it is; sending it again unchanged will fail again."""

    code = "invalid-input"


class NotFound(VitalgridError):
    """The thing named does not exist, or is not visible to the caller."""

    code = "not-found"


class Conflict(VitalgridError):
    """The request contradicts the present state (a stale version, a second patient on one monitor)."""

    code = "conflict"


class PatientAttached(Conflict):
    """A device would be cut off from a patient, and nobody of the ward is named who knows of it."""

    code = "patient-attached"


class StaleVersion(Conflict):
    """A change was made for a version that is no longer the present one: read again, then change."""

    code = "stale-version"


class Unauthenticated(VitalgridError):
    """No identity, or one that does not hold."""

    code = "unauthenticated"


class WrongCertificate(Unauthenticated):
    """A device's certificate is of our authority and good no more here, or the token beside it is not the same device's."""

    code = "wrong-certificate"


class CertificateRequired(Unauthenticated):
    """The token is good, and its device has to show its certificate too."""

    code = "certificate-required"


class SessionEnded(Unauthenticated):
    """A session of `user_id` that held once does no longer. `code` says why: `session-superseded`, `session-idle`, …

    `is_new`: it ended just now, by what raises this.
    """

    code = "session-ended"

    def __init__(self, why: str, detail: str, user_id: str, *, is_new: bool = False) -> None:
        super().__init__(detail)
        self.code = f"session-{why}"
        self.user_id = user_id
        self.is_new = is_new


class SecondFactorRequired(Unauthenticated):
    """The password was right, and the user has a second factor, which was not shown."""

    code = "second-factor-required"


class SecondFactorWrong(Unauthenticated):
    """The password was right, and what was shown as second factor is not, or was used before."""

    code = "second-factor-wrong"


class FirstPasswordExpired(Unauthenticated):
    """A password that somebody else gave was right, and was not used for so long that it opens nothing any more."""

    code = "first-password-expired"


class Forbidden(VitalgridError):
    """A known caller asked for something that is not theirs."""

    code = "forbidden"


class PasswordChangeRequired(Forbidden):
    """The caller's password was given by somebody else: it has to be changed before anything else."""

    code = "password-change-required"


class SecondFactorSetupRequired(Forbidden):
    """The caller has to have a second factor: it has to be set up before anything else."""

    code = "second-factor-setup-required"


class Unavailable(VitalgridError):
    """A part of the platform does not answer now; the same request may succeed later."""

    code = "unavailable"


class Busy(Unavailable):
    """More is waiting already than will be done soon: refused before any work was done."""

    code = "busy"


class TooManyAttempts(Unavailable):
    """So many sign-ins of one address failed lately that further ones wait, whoever makes them."""

    code = "too-many-attempts"


class TooManyRequests(Unavailable):
    """One caller, or one address, asked for more than one may have: others are answered too. `wait_s`: until then, if known."""

    code = "too-many-requests"

    def __init__(self, said: str, wait_s: float | None = None) -> None:
        super().__init__(said)
        self.wait_s = wait_s


class TooManyReadings(TooManyRequests):
    """A sender at a door sent more readings than it may: nothing of this message is stored, it may come again in `wait_s`."""

    code = "too-many-readings"

    def __init__(self, readings_a_s: float, wait_s: float) -> None:
        said = f"more came of this sender than {readings_a_s:g} readings a second: send it again in {wait_s:.1f} s"
        super().__init__(said, wait_s)


class StorageFull(Unavailable):
    """What was sent cannot be kept: a disk is full or cannot be written. The same may be sent again when there is room."""

    code = "storage-full"


class AuditUnavailable(Unavailable):
    """Who sees what cannot be noted in the access log now: protected records are not shown, and not changed."""

    code = "audit-unavailable"


class IntegrityViolation(VitalgridError):
    """Stored or received bytes are not what was written: a CRC, a sequence or a fencing epoch is wrong."""

    code = "integrity-violation"


class RejectedInput(InvalidInput):
    """Input that a door refused and kept among the rejects.

    `reason` is a stable code (`unknown-device`, `malformed-json`, `wrong-unit`, …); `detail` the sentence.
    """

    code = "rejected"

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
