"""Requests to other servers, whose addresses strangers may have chosen."""

from lowtide.egress.client import Egress, EgressAnswer

__all__ = ["Egress", "EgressAnswer"]
