"""Devices and apps that their makers vouch for: App Attest and Play Integrity."""

from lowtide.auth.attestation.android import read_console_keys
from lowtide.auth.attestation.routes import attestation_routes
from lowtide.auth.attestation.service import Accepted, Attestation
from lowtide.storage.db.migrate import Component

COMPONENT = Component("attestation", "lowtide.auth.attestation")

__all__ = ["COMPONENT", "Accepted", "Attestation", "attestation_routes", "read_console_keys"]
