"""The gateway: the one door from clients to the engine."""
