"""An endpoint of webhooks in the simulated world: in bad times it fails, or takes a message and its answer is lost."""

from __future__ import annotations

import random

from fleetlog_keeper import works
from fleetlog_schemas import events
from fleetlog_schemas.alert_events import Webhook, WebhookSet
from fleetlog_simulation.world import World

ASKED = 0.4
"""How many histories have a webhook."""
FAILS, LOSES_ANSWER = 0.4, 0.2
WEBHOOK = WebhookSet("w1", "pager", Webhook("https://hooks.example.com/x", ("task.ended", "alert.raised", "alert.resolved")))


class Endpoint:
    """What one endpoint took, in order."""

    def __init__(self, world: World) -> None:
        """Chances of its own, so that histories without webhooks are what they were."""
        self._world = world
        self._chance = random.Random(f"endpoint {world.seed}")
        self.in_play = self._chance.random() < ASKED
        self.taken: list[tuple[str, str]] = []
        """Id and body."""
        self.well = False

    def post(self, what: works.Post) -> works.Posted:
        """Take a message, or not."""
        if not self.well and self._chance.random() < FAILS:
            return works.Posted(self._chance.choice((0, 500, 503)), "it is a bad time")
        self.taken.append((what.message_id, what.body))
        if not self.well and self._chance.random() < LOSES_ANSWER:
            return works.Posted(error="no answer")
        return works.Posted(204)

    @property
    def asked_for(self) -> tuple[WebhookSet, str]:
        """What a person says to have it told, and where."""
        return WEBHOOK, events.CATALOG
