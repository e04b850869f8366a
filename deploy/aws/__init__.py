"""Headrace on AWS: the stack (CDK), and what it costs. `make aws-test` checks it."""
