"""The question what hosts offer, by which a gateway knows which functions can run before it stores a task."""

from __future__ import annotations

import msgspec

from fleetlog_schemas.questions import AsOf


class OffersQuestion(AsOf, frozen=True, kw_only=True, omit_defaults=True):
    """`offers`: what every host says of the functions that it offers. Answer: Offers."""


class Offer(msgspec.Struct, frozen=True):
    """What some hosts say of their functions."""

    facts: dict[str, str]
    """As in `fleetlog_schemas.functions`."""
    host_ids: list[str]


class Offers(msgspec.Struct, frozen=True):
    """What hosts say of their functions: hosts that say the same together, those that never said anything left out."""

    offers: list[Offer]
