"""Every error that Lowtide raises on purpose.

The tree::

    LowtideError
    ├── BadRequest            400  what was sent cannot be read
    │   ├── Malformed             not JSON, wrong types, too deep, NUL, lone surrogates
    │   ├── PasswordRefused       too short, or one that others would try first: ``reason``
    │   ├── UnknownParameter      a name that the server does not know
    │   ├── AddressRefused        another server's address that this one does not ask
    │   ├── BadFilter             a list's filter; ``position`` says where it goes wrong
    │   └── KeyMissing            this address wants an Idempotency-Key
    ├── Unauthorized          401  who is asking is not known
    │   ├── TokenExpired          the token was good once
    │   ├── InvalidGrant          a refresh token, code or ticket that is none, or is used up
    │   ├── SessionRevoked        the session is over: ``wipe`` asks the device to delete what it holds
    │   ├── ProofMismatch         the token is bound to a key that the request did not prove
    │   └── ProofInvalid          a DPoP proof is missing, or does not fit the request
    │       └── NonceNeeded           the proof must hold the server's nonce
    ├── Forbidden             403  who is asking may not
    │   ├── AttestationRequired   the device has not proved to be a genuine one
    │   ├── StepUpRequired        the last sign-in is too long ago for this
    │   ├── ScopeMissing          the token of an OAuth client was not granted this
    │   ├── AccountDisabled       the user was locked out, or is being deleted
    │   ├── SignInRefused         the app's own rules let this user not in
    │   └── TooManyBuckets        the user holds more buckets than one device can follow
    ├── NotFound              404
    ├── MethodNotAllowed      405
    ├── RequestTimeout        408  the body came too slowly
    ├── Conflict              409
    │   ├── KeyInFlight           the same request is being worked on
    │   ├── BlobExists            a blob that may be written only once is there already
    │   ├── BatchGap              an upload skipped a number; ``expected`` says which comes next
    │   ├── SignInPending         the link that was sent has not been confirmed yet
    │   ├── BatchRepeated         an upload's numbers were used before, for other content
    │   ├── IdentityTaken         that address or account belongs to another user
    │   ├── IdentityUnlinked      the user took this way in away
    │   └── NotUnique             a value that must be unique is taken
    ├── PreconditionFailed    412  If-Match names a version that is not the present one
    ├── TooLarge              413  beyond a documented limit
    │   └── HeadTooLarge      431  the request line and the headers
    ├── UnsupportedMedia      415  a content type or encoding that this address does not read
    ├── Misdirected           421  the Host header names another server
    ├── Invalid               422  a record's content is not allowed
    ├── KeyReused             422  an Idempotency-Key was used before, for another request
    ├── ResyncRequired        410  what the client holds cannot be brought up to date: it begins anew
    ├── AppTooOld             426  this version of the app is no longer served; ``store`` has a newer one
    ├── TooManyRequests       429  slow down; ``retry_after`` seconds
    ├── NotSetUp              501  a setting of the operator's is missing
    ├── Unavailable           503  transient: the same request may succeed later
    │   ├── Busy                  a bounded queue is full
    │   ├── DeadlinePassed        the work took longer than its address allows
    │   ├── BlobsLost             the storage of blobs does not answer
    │   ├── BlobsRefused          the storage of blobs says no: wrong keys, no such bucket, no right
    │   ├── StorageLost           the database does not answer
    │   ├── StorageFull           the disk is full
    │   └── StorageTimeout        a statement ran past its deadline
    ├── StatementFailed       500  the database refuses a statement: a defect of the code that wrote it
    ├── AuditBroken           500  an audit entry is not as it was written, so it is not archived
    ├── SealBroken            500  a sealed secret does not open: its row was changed or moved
    ├── OutsideFailed         502  another server gave no whole answer
    ├── FunctionFailed        502  a function of the app raised
    └── SetupError            a mistake of the developer or operator, found at start
        ├── DeclarationError      an app declaration that cannot work
        ├── NewerDatabase         the database was written by a newer Lowtide
        ├── MigrationChanged      a migration was edited after it was applied
        ├── NoDatabase            the app was never started on this database
        └── AlreadyRunning        another process holds these files

A class has a stable ``code`` (machines match on it; it is never renamed), an HTTP ``status`` and a
``hint`` that says what to do next. The first line of its docstring is its default message.

Beside the tree stands ``Refused``: the app's own no to one change. It is an answer and no fault, has
no HTTP status, and travels to the device as data.
"""

from __future__ import annotations

from typing import Any, ClassVar


class LowtideError(Exception):
    """Something went wrong in Lowtide."""

    code: ClassVar[str] = "lowtide"
    status: ClassVar[int] = 500
    hint: str = "Look at the server's log; the request id is in the answer."

    def __init__(self, message: str | None = None, *, hint: str | None = None, **details: Any):
        self.message = message or (self.__doc__ or "").strip().split("\n")[0]
        if hint is not None:
            self.hint = hint
        self.details = details
        super().__init__(self.message)


class BadRequest(LowtideError):
    """The request cannot be read."""

    code = "bad_request"
    status = 400
    hint = "Compare the request with the API reference."


class Malformed(BadRequest):
    """The body is not what this address expects."""

    code = "malformed"


class UnknownParameter(BadRequest):
    """The request names something that this server does not know."""

    code = "unknown_parameter"


class AddressRefused(BadRequest):
    """This address is not one that this server sends requests to."""

    code = "address_refused"
    hint = "Use a public https address, or name the host in the setting 'egress_allowed'."


class PasswordRefused(BadRequest):
    """This password may not be one."""

    code = "password_refused"
    hint = "Choose another one: 'reason' is too_short, common, leaked or predictable."


class BadFilter(BadRequest):
    """The filter cannot be read."""

    code = "bad_filter"
    hint = 'Write it like: done = false and (title ~ "roof" or due < "2026-12-01").'


class KeyMissing(BadRequest):
    """This address wants an Idempotency-Key."""

    code = "key_missing"
    hint = "Send the header Idempotency-Key with a new random value, and the same one when you repeat."


class Unauthorized(LowtideError):
    """The request carries no valid token."""

    code = "unauthorized"
    status = 401
    hint = "Sign in and send the token as 'Authorization: Bearer <token>'."


class TokenExpired(Unauthorized):
    """The token has expired."""

    code = "token_expired"
    hint = "Fetch a new token and send the request again."


class InvalidGrant(Unauthorized):
    """What was sent to sign in with is not valid, or was used before."""

    code = "invalid_grant"
    hint = "Begin the sign-in again; nothing that the device holds needs to be deleted."


class SessionRevoked(Unauthorized):
    """The session is over."""

    code = "session_revoked"
    hint = "Sign in again; delete what the device holds only if 'wipe' is true."


class ProofMismatch(Unauthorized):
    """The token is bound to a key, and the request does not prove to hold it."""

    code = "proof_mismatch"
    hint = "Send a DPoP proof made with the key of the sign-in; the session goes on."


class ProofInvalid(Unauthorized):
    """The request's proof of possession is missing or wrong."""

    code = "invalid_dpop_proof"
    hint = "Send 'DPoP: <proof>', made for this request with the key that the token is bound to (RFC 9449)."


class NonceNeeded(ProofInvalid):
    """The proof of possession needs the server's nonce."""

    code = "use_dpop_nonce"
    hint = "Put the DPoP-Nonce header's value into the proof and send the request again, once."


class Forbidden(LowtideError):
    """The user may not do this."""

    code = "forbidden"
    status = 403
    hint = "Look at the write rule of the model, or sign in as another user."


class AttestationRequired(Forbidden):
    """The device must prove that it is a genuine one, with a genuine app."""

    code = "attestation_required"
    hint = "Attest this session's device at /v1/auth/attestation, then send the request again."


class StepUpRequired(Forbidden):
    """The user must prove anew who they are."""

    code = "step_up_required"
    hint = (
        "Let the user sign in once more on this device, then send the request with the new token. "
        "At an outside provider: begin with 'max_age', so that it asks them."
    )


class ScopeMissing(Forbidden):
    """The app's token was not granted this."""

    code = "insufficient_scope"
    hint = "Sign in again, and ask for the scope that the answer names."


class AccountDisabled(Forbidden):
    """This account cannot be used."""

    code = "account_disabled"
    hint = "An admin of the app can say why, and enable the account again."


class SignInRefused(Forbidden):
    """The app does not let this user in."""

    code = "sign_in_refused"
    hint = "The app's own rules decide this; 'refusal' is their reason."


class TooManyBuckets(Forbidden):
    """This user holds more buckets than one device can follow."""

    code = "too_many_buckets"
    hint = "Group rows into fewer, larger buckets, or make the stream one that devices subscribe to."


class NotFound(LowtideError):
    """There is nothing at this address."""

    code = "not_found"
    status = 404
    hint = "Check the address; a record of another space does not exist for this token."


class MethodNotAllowed(LowtideError):
    """This address does not know the method."""

    code = "method_not_allowed"
    status = 405
    hint = "Use one of the methods in the Allow header."


class RequestTimeout(LowtideError):
    """The request's body did not arrive in time."""

    code = "request_timeout"
    status = 408
    hint = "Send the request again, in smaller parts on a slow network."


class Conflict(LowtideError):
    """The request does not fit the present state."""

    code = "conflict"
    status = 409
    hint = "Read the present state and send the request again."


class KeyInFlight(Conflict):
    """The same request is being worked on."""

    code = "key_in_flight"
    hint = "Send it again a little later: then you get its answer."


class BlobExists(Conflict):
    """A blob with this key is there already."""

    code = "blob_exists"
    hint = "Compare what is there: it may be an earlier try of the same call."


class BatchGap(Conflict):
    """A batch came before its predecessor."""

    code = "batch_gap"
    hint = "Send the batch with the number in 'expected' first."


class SignInPending(Conflict):
    """Nobody has confirmed the link yet."""

    code = "sign_in_pending"
    hint = "Ask again in two seconds, or send the code from the message."


class BatchRepeated(Conflict):
    """These numbers were used before for other content."""

    code = "batch_repeated"
    hint = "The device's database was copied or put back: choose a new random lineage and send again."


class IdentityTaken(Conflict):
    """Another user signs in with this already."""

    code = "identity_taken"
    hint = "Sign in as that user, and merge the accounts if both are the same person's."


class IdentityUnlinked(Conflict):
    """This way in was taken away from the account that has its address."""

    code = "identity_unlinked"
    hint = "Sign in another way; then link this one again, with 'link' and the account's own token."


class NotUnique(Conflict):
    """Another record has this value already."""

    code = "not_unique"
    hint = "Choose another value, or change the record that has it."


class PreconditionFailed(LowtideError):
    """The record has changed since it was read."""

    code = "precondition_failed"
    status = 412
    hint = "Read the record again, and send the change with its new ETag."


class TooLarge(LowtideError):
    """The request is larger than this server accepts."""

    code = "too_large"
    status = 413
    hint = "Send less at once; the limits are in docs/reference/limits.md."


class HeadTooLarge(TooLarge):
    """The address or the headers are larger than this server accepts."""

    code = "head_too_large"
    status = 431


class UnsupportedMedia(LowtideError):
    """This address does not read a body of that type or encoding."""

    code = "unsupported_media"
    status = 415
    hint = "Send application/json, as it is or with Content-Encoding gzip or zstd."


class Misdirected(LowtideError):
    """This server does not answer for that host name."""

    code = "misdirected"
    status = 421
    hint = "Add the host name to the server's list of hosts."


class Invalid(LowtideError):
    """The record cannot hold this content."""

    code = "invalid"
    status = 422
    hint = "Compare the fields and their values with the model's declaration."


class KeyReused(LowtideError):
    """This Idempotency-Key was used before, for another request."""

    code = "key_reused"
    status = 422
    hint = "Make a new key for each new request; keep it only to repeat the very same one."


class ResyncRequired(LowtideError):
    """What you hold cannot be brought up to date any more."""

    code = "resync_required"
    status = 410
    hint = "Pull from the beginning, and drop what is not there; what is not pushed yet can still be pushed."


class AppTooOld(LowtideError):
    """This version of the app is no longer served."""

    code = "app_too_old"
    status = 426
    hint = "Ask the user to update: 'store' is where. What is not uploaded yet can still be uploaded."


class TooManyRequests(LowtideError):
    """Too many requests."""

    code = "too_many_requests"
    status = 429
    hint = "Wait for the number of seconds in Retry-After, plus a random part."


class NotSetUp(LowtideError):
    """This server is not set up for that."""

    code = "not_set_up"
    status = 501
    hint = "The operator finds the setting that is missing in docs/reference/settings.md."


class Unavailable(LowtideError):
    """The server cannot do this now."""

    code = "unavailable"
    status = 503
    hint = "Try again after a pause that grows and has a random part."


class Busy(Unavailable):
    """The server has too much to do."""

    code = "busy"


class DeadlinePassed(Unavailable):
    """The work took longer than its deadline."""

    code = "deadline_passed"


class BlobsLost(Unavailable):
    """The storage of blobs does not answer."""

    code = "blobs_lost"
    hint = "See that the folder or the S3 endpoint can be reached; the same call may succeed later."


class BlobsRefused(Unavailable):
    """The storage of blobs refuses what this server asks."""

    code = "blobs_refused"
    hint = "Look at 's3_endpoint', 's3_region', 's3_key_id' and 's3_secret', and what the key may do."


class StorageLost(Unavailable):
    """The database does not answer."""

    code = "storage_lost"


class StorageFull(Unavailable):
    """The database's disk is full."""

    code = "storage_full"
    hint = "Free space on the database's disk; nothing was half written, and writes resume by themselves."


class StorageTimeout(Unavailable):
    """A statement ran longer than its deadline."""

    code = "storage_timeout"


class StatementFailed(LowtideError):
    """The database refused a statement."""

    code = "statement_failed"


class AuditBroken(LowtideError):
    """An entry of the audit log is not as it was written."""

    code = "audit_broken"
    hint = "Run 'lowtide audit verify': it names what was altered, and where."


class SealBroken(LowtideError):
    """A sealed secret does not open."""

    code = "seal_broken"
    hint = "Its row was changed by hand or moved, or its data key is gone: set the secret anew."


class OutsideFailed(LowtideError):
    """Another server gave no whole answer."""

    code = "outside_failed"
    status = 502
    hint = "Try again later; look whether that server works."


class FunctionFailed(LowtideError):
    """A function of the app failed."""

    code = "function_failed"
    status = 502
    hint = "This is a mistake in the app's server code; its log has the reason."


class SetupError(LowtideError):
    """The server cannot start as it is set up."""

    code = "setup"


class DeclarationError(SetupError):
    """The app's declaration cannot work."""

    code = "declaration"
    hint = "Run 'lowtide check' for the list of mistakes, each with its line."


class NewerDatabase(SetupError):
    """The database was written by a newer Lowtide."""

    code = "newer_database"
    hint = "Start the newer Lowtide, or restore a backup that this version wrote."


class MigrationChanged(SetupError):
    """A migration was edited after it was applied to this database."""

    code = "migration_changed"
    hint = "Restore the file as it was released, and put the change into a new migration."


class NoDatabase(SetupError):
    """There is no database yet."""

    code = "no_database"
    hint = "Start the app once, with 'lowtide dev' or 'lowtide serve': that makes it."


class AlreadyRunning(SetupError):
    """Another process has these database files open."""

    code = "already_running"
    hint = "Stop the other 'lowtide' process, or point this one at another folder."


class Refused(Exception):
    """The app says no to one change of one record.

    A ``before_write`` hook raises it. The whole transaction of the device is then not applied, and comes
    back to the device as rejections that hold ``message``, ``code`` and ``hint``. The upload goes on: a
    refusal is never an HTTP error there.

    ``message`` is for the app's user; ``code`` is what the app's code matches on; ``hint`` says what the
    user may do about it. Each is cut to 1,000 characters, because devices keep them.
    """

    def __init__(self, message: str, *, code: str = "refused", hint: str = ""):
        self.message = str(message)[:1000]
        self.code = str(code)[:1000]
        self.hint = str(hint)[:1000]
        super().__init__(self.message)
