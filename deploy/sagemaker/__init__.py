"""Headrace's models on SageMaker, for teams that serve there."""
