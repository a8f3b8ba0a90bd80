"""What a backend keeps: the tables of every component, and the columns that are sealed."""

from __future__ import annotations

from lowtide import audit, auth, bridges, sync, webhooks
from lowtide.audit import keys as audit_keys
from lowtide.auth import accounts, attestation, keys, methods, outside, passkeys, provider
from lowtide.storage import jobs, vault

COMPONENTS = (
    jobs.COMPONENT,
    vault.COMPONENT,
    audit.COMPONENT,
    auth.COMPONENT,
    methods.COMPONENT,
    provider.COMPONENT,
    passkeys.COMPONENT,
    outside.COMPONENT,
    attestation.COMPONENT,
    sync.COMPONENT,
    webhooks.COMPONENT,
    bridges.COMPONENT,
)
"""Everything that keeps tables, in the order in which they are made."""

SEALED = (
    *audit_keys.SEALED,
    *keys.SEALED,
    *accounts.SEALED,
    *methods.SEALED,
    *outside.SEALED,
    *webhooks.SEALED,
)
"""Every column that the vault seals, to be sealed anew after a rotation of its keys."""
