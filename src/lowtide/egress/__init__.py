"""Requests to other servers, whose addresses strangers may have chosen."""

from lowtide.egress.client import Answer, Egress

__all__ = ["Answer", "Egress"]
