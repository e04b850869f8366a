"""Kafka to Redis: route, aggregate, replay, dead letters."""
