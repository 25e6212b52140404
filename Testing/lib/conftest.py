"""Fixtures that several tests of the library share."""

from fetch_cases import no_proxy, site, target

__all__ = ["no_proxy", "site", "target"]
