"""Replay at full speed: recorded events through route and aggregate's own fold, without Kafka."""
